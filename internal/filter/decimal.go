package filter

import (
	"bytes"
	"strconv"
	"strings"
)

// maxExponent is the largest exponent a number of a filter may have, either way, with one digit
// before the point.
const maxExponent = 100_000

// farExponent is beyond all that can be compared with; which of two such numbers is larger
// does not matter.
const farExponent = 1 << 40

// decimal is a number by its digits, of any size and precision: 0.d1d2d3… × 10^scale.
type decimal struct {
	negative bool
	digits   []byte // from the first that is not 0 on, with a point somewhere; empty: it is 0
	scale    int64
}

// readDecimal reads a JSON number, without copying it.
func readDecimal(raw []byte) (d decimal) {
	if len(raw) > 0 && raw[0] == '-' {
		d.negative, raw = true, raw[1:]
	}
	exponent := int64(0)
	if i := bytes.IndexAny(raw, "eE"); i >= 0 {
		n, err := strconv.ParseInt(strings.TrimPrefix(string(raw[i+1:]), "+"), 10, 64)
		if err != nil || n > farExponent || n < -farExponent {
			if n = farExponent; i+1 < len(raw) && raw[i+1] == '-' {
				n = -n
			}
		}
		raw, exponent = raw[:i], n
	}
	first := -1
	for i, c := range raw {
		if c != '0' && c != '.' {
			first = i
			break
		}
	}
	if first < 0 {
		return decimal{}
	}
	point := bytes.IndexByte(raw, '.')
	if point < 0 {
		point = len(raw)
	}
	if d.digits = raw[first:]; first < point {
		d.scale = int64(point-first) + exponent
	} else {
		d.scale = int64(point-first+1) + exponent
	}
	return d
}

// wide tells whether its exponent is beyond maxExponent.
func (d decimal) wide() bool {
	return len(d.digits) > 0 && (d.scale-1 > maxExponent || d.scale-1 < -maxExponent)
}

// compare tells which of two is larger.
func (d decimal) compare(o decimal) int {
	sign := 1
	if d.negative {
		sign = -1
	}
	switch {
	case len(d.digits) == 0 && len(o.digits) == 0:
		return 0
	case len(d.digits) == 0:
		if o.negative {
			return 1
		}
		return -1
	case len(o.digits) == 0:
		return sign
	case d.negative != o.negative:
		return sign
	case d.scale != o.scale:
		if d.scale > o.scale {
			return sign
		}
		return -sign
	}
	for i, j := 0, 0; ; {
		var a, b byte
		a, i = digit(d.digits, i)
		b, j = digit(o.digits, j)
		switch {
		case a > b:
			return sign
		case a < b:
			return -sign
		case i >= len(d.digits) && j >= len(o.digits):
			return 0
		}
	}
}

// digit gives the digit at i, past a point, and where the next one is; behind the last there
// are zeros.
func digit(digits []byte, i int) (byte, int) {
	if i < len(digits) && digits[i] == '.' {
		i++
	}
	if i >= len(digits) {
		return '0', i
	}
	return digits[i], i + 1
}

// String writes a number in the one way in which this package does.
func (d decimal) String() string {
	digits := strings.TrimRight(strings.Replace(string(d.digits), ".", "", 1), "0")
	if digits == "" {
		return "0"
	}
	sign := ""
	if d.negative {
		sign = "-"
	}
	n := int64(len(digits))
	switch {
	case d.scale > 21 || d.scale < -5:
		text := sign + digits
		if e := d.scale - n; e != 0 {
			text += "e" + strconv.FormatInt(e, 10)
		}
		return text
	case d.scale <= 0:
		return sign + "0." + strings.Repeat("0", int(-d.scale)) + digits
	case d.scale >= n:
		return sign + digits + strings.Repeat("0", int(d.scale-n))
	}
	return sign + digits[:d.scale] + "." + digits[d.scale:]
}

// small reads a whole number of at most 18 digits; ok is false for all others.
func small(raw []byte) (n int64, ok bool) {
	digits := raw
	if len(raw) > 0 && raw[0] == '-' {
		digits = raw[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	for _, c := range digits {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) < len(raw) {
		n = -n
	}
	return n, true
}
