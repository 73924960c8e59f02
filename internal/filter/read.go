package filter

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Read reads a filter as it stands in a frame: a string, which is its text; or an object
// {"member": value, …}, which says that each member has that value, null for none. Errors are
// like those of [Parse].
func Read(raw json.RawMessage) (*Filter, error) {
	switch {
	case len(raw) > 8*MaxText: // a string may be written with escapes
		return nil, invalid("", "it has %d bytes", len(raw))
	case len(raw) > 0 && raw[0] == '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, invalid("", "it is not a string that can be read")
		}
		return Parse(s)
	case len(raw) == 0 || raw[0] != '{':
		return nil, invalid(`as "price > 10", or {"status":"open"}`, "it is neither a string nor an object")
	}
	root, err := object(raw)
	if err != nil {
		return nil, err
	}
	f, err := newFilter(root)
	if err == nil && len(f.text) > MaxText {
		err = invalid("", "it has %d bytes, and may have %d", len(f.text), MaxText)
	}
	return f, err
}

// object makes a condition of an object.
func object(raw json.RawMessage) (*expr, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if _, err := dec.Token(); err != nil {
		return nil, invalid("", "its object cannot be read")
	}
	all := &expr{op: and}
	seen := map[string]bool{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, invalid("", "its object cannot be read")
		}
		value, err := dec.Token()
		if err != nil {
			return nil, invalid("", "its object cannot be read")
		}
		key, _ := name.(string)
		if seen[key] {
			return nil, invalid("", "member %.60q stands twice", key)
		}
		seen[key] = true
		if len(seen) > MaxNodes/2 {
			return nil, invalid("", "it has more than %d members", MaxNodes/2)
		}
		of := operand{kind: member, path: []string{key}}
		v := operand{}
		switch value := value.(type) {
		case string:
			v = operand{kind: text, text: value}
		case json.Number:
			d := readDecimal([]byte(value))
			if d.wide() {
				return nil, invalid("", "the exponent of member %.60q is beyond ±%d", key, maxExponent)
			}
			v = operand{kind: number, text: d.String()}
		case bool:
			v = operand{kind: boolean, text: fmt.Sprint(value)}
		case nil:
			all.kids = append(all.kids, &expr{op: isNull, args: []operand{of}})
			continue
		default:
			return nil, invalid("for more than that write a string", "member %.60q is an object or a list; it must be a string, a number, true, false or null", key)
		}
		all.kids = append(all.kids, &expr{op: equal, args: []operand{of, v}})
	}
	switch len(all.kids) {
	case 0:
		return nil, invalid("leave it out to get everything", "its object has no members")
	case 1:
		return all.kids[0], nil
	}
	return all, nil
}
