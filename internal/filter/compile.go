package filter

import (
	"bytes"
	"slices"
)

// compiler makes closures of expressions, and knows which members they look at.
type compiler struct {
	tree  members
	names []string
	slots []int
}

// slot is where the value of a member is kept.
func (c *compiler) slot(path []string) int {
	tree, top := &c.tree, 0
	for i, name := range path {
		k := slices.IndexFunc(*tree, func(w want) bool { return w.name == name })
		if k < 0 {
			if i == 0 {
				c.names = append(c.names, name)
				top = len(c.names) - 1
			}
			k = len(*tree)
			*tree = append(*tree, want{name: name, slot: -1, top: top})
		}
		w := &(*tree)[k]
		top = w.top
		if i < len(path)-1 {
			tree = &w.tree
			continue
		}
		if w.slot < 0 {
			w.slot = len(c.slots)
			c.slots = append(c.slots, top)
		}
		return w.slot
	}
	return -1
}

func (c *compiler) judge(e *expr) judge {
	switch e.op {
	case and, or, not:
		return c.logic(e)
	case in:
		return c.list(e)
	case isNull, isNotNull:
		slot, want := c.slot(e.args[0].path), e.op == isNull
		return func(d *doc) truth {
			if d.unknown(slot) {
				return maybe
			}
			return truthOf((kindOf(d.vals[slot]) == null) == want)
		}
	case startsWith:
		slot, prefix := c.slot(e.args[0].path), []byte(e.args[1].text)
		return func(d *doc) truth {
			if d.unknown(slot) {
				return maybe
			}
			raw := d.vals[slot]
			return truthOf(kindOf(raw) == text && bytes.HasPrefix(plain(raw), prefix))
		}
	}
	left, right, o := e.args[0], e.args[1], e.op
	if left.kind == member && right.kind == member {
		return c.both(o, c.slot(left.path), c.slot(right.path))
	}
	if left.kind != member {
		left, right, o = right, left, mirrored(o)
	}
	slot, is, order := c.slot(left.path), right.kind, orderOf(right)
	return func(d *doc) truth {
		if d.unknown(slot) {
			return maybe
		}
		raw := d.vals[slot]
		return truthOf(kindOf(raw) == is && holds(o, order(raw)))
	}
}

func (c *compiler) logic(e *expr) judge {
	kids := make([]judge, len(e.kids))
	for i, kid := range e.kids {
		kids[i] = c.judge(kid)
	}
	switch e.op {
	case and:
		return func(d *doc) truth {
			least := yes
			for _, kid := range kids {
				if least = min(least, kid(d)); least == no {
					break
				}
			}
			return least
		}
	case or:
		return func(d *doc) truth {
			most := no
			for _, kid := range kids {
				if most = max(most, kid(d)); most == yes {
					break
				}
			}
			return most
		}
	}
	kid := kids[0]
	return func(d *doc) truth { return yes - kid(d) }
}

func (c *compiler) list(e *expr) judge {
	slot := c.slot(e.args[0].path)
	values := e.args[1:]
	orders := make([]func([]byte) int, len(values))
	for i, v := range values {
		orders[i] = orderOf(v)
	}
	return func(d *doc) truth {
		if d.unknown(slot) {
			return maybe
		}
		raw := d.vals[slot]
		is := kindOf(raw)
		for i, order := range orders {
			if values[i].kind == is && order(raw) == 0 {
				return yes
			}
		}
		return no
	}
}

// both compares two members.
func (c *compiler) both(o op, left, right int) judge {
	return func(d *doc) truth {
		if d.unknown(left) || d.unknown(right) {
			return maybe
		}
		a, b := d.vals[left], d.vals[right]
		is := kindOf(a)
		if is != kindOf(b) {
			return no
		}
		switch is {
		case number:
			return truthOf(holds(o, readDecimal(a).compare(readDecimal(b))))
		case text:
			return truthOf(holds(o, bytes.Compare(plain(a), plain(b))))
		case boolean:
			return truthOf((o == equal || o == unequal) && holds(o, bytes.Compare(a, b)))
		}
		return no
	}
}

// orderOf tells how a value of the same kind compares with one.
func orderOf(v operand) func(raw []byte) int {
	want := []byte(v.text)
	switch v.kind {
	case number:
		n, short := small(want)
		d := readDecimal(want)
		return func(raw []byte) int {
			if short {
				if m, ok := small(raw); ok {
					switch {
					case m < n:
						return -1
					case m > n:
						return 1
					}
					return 0
				}
			}
			return readDecimal(raw).compare(d)
		}
	case text:
		return func(raw []byte) int { return bytes.Compare(plain(raw), want) }
	}
	return func(raw []byte) int { return bytes.Compare(raw, want) }
}

// holds tells whether an operator agrees with how two values compare.
func holds(o op, order int) bool {
	switch o {
	case equal:
		return order == 0
	case unequal:
		return order != 0
	case less:
		return order < 0
	case atMost:
		return order <= 0
	case greater:
		return order > 0
	}
	return order >= 0
}

// mirrored is the operator with its sides changed.
func mirrored(o op) op {
	switch o {
	case less:
		return greater
	case atMost:
		return atLeast
	case greater:
		return less
	case atLeast:
		return atMost
	}
	return o
}

// unknown reports that a member is not there, and may have been something.
func (d *doc) unknown(slot int) bool { return d.partial && !d.has[d.slots[slot]] }
