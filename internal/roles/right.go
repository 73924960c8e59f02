package roles

import (
	"maps"
	"slices"
	"strings"
)

// Right is one thing that one may do with something of schema pgcast.
type Right struct {
	Kind      string // table, sequence or function
	Name      string // in schema pgcast
	Privilege string // select, insert, update, delete, usage or execute
	Column    string // of a table, where it is for that one only
}

// String says it as a grant does.
func (r Right) String() string {
	switch {
	case r.Column != "":
		return r.Privilege + " (" + r.Column + ") on pgcast." + r.Name
	case r.Kind == "table":
		return r.Privilege + " on pgcast." + r.Name
	}
	return r.Privilege + " on " + r.Kind + " pgcast." + r.Name
}

// ServerRights are those of servers, by kind and name; wal says that they capture from the WAL.
func ServerRights(wal bool) []Right {
	var list []Right
	for _, o := range relations {
		what := o.server
		if wal {
			what += ", " + o.wal
		}
		for _, r := range split(what) {
			r.Name = o.name
			list = append(list, r)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(functions)) {
		if who := functions[name]; who == byServer || who == byAll || who == byWAL && wal {
			list = append(list, Right{Kind: "function", Name: name, Privilege: "execute"})
		}
	}
	return list
}

// split reads what stands between grant and on.
func split(what string) (list []Right) {
	for what != "" {
		what = strings.TrimLeft(what, ", ")
		end := strings.IndexAny(what, ",(")
		if end < 0 {
			end = len(what)
		}
		r := Right{Kind: "table", Privilege: strings.TrimSpace(what[:end])}
		what = what[end:]
		if r.Privilege == "usage" {
			r.Kind = "sequence"
		}
		if columns, rest, is := strings.Cut(strings.TrimPrefix(what, "("), ")"); is && strings.HasPrefix(what, "(") {
			for c := range strings.SplitSeq(columns, ", ") {
				r.Column = c
				list = append(list, r)
			}
			what = rest
		} else if r.Privilege != "" {
			list = append(list, r)
		}
	}
	return list
}
