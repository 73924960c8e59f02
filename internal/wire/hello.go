package wire

import "slices"

func (r *reader) caps(raw []byte) []string {
	if raw == nil {
		return nil
	}
	if raw[0] != '[' {
		r.fail("caps is %s; it must be an array", clip(raw))
		return nil
	}
	var caps []string
	s := scanner{text: raw, room: MaxDepth}
	_ = s.array(func(item []byte) error {
		if len(caps) == MaxCaps {
			r.fail("caps has more than %d items", MaxCaps)
			return r.err
		}
		caps = append(caps, r.short("caps", r.text("caps", item), MaxRef))
		return r.err
	})
	if r.err != nil {
		return nil
	}
	return slices.Clip(caps)
}

// secret reads an optional string that no message may repeat.
func (r *reader) secret(name string, raw []byte) string {
	if raw == nil {
		return ""
	}
	s, ok := unquote(raw)
	switch {
	case !ok:
		r.fail("%s must be a string", name)
	case len(s) > MaxToken:
		r.fail("%s is %d bytes long, at most %d", name, len(s), MaxToken)
	default:
		return s
	}
	return ""
}
