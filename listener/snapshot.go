package listener

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// snapshot is a pg_snapshot.
type snapshot struct {
	next uint64 // the first transaction that had not begun
	open []uint64
}

// snapshot looks what a statement on the line sees now.
func (l *Line) snapshot(ctx context.Context) (s snapshot, err error) {
	var text string
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, "select pg_current_snapshot()::text").Scan(&text)
	})
	if err == nil {
		s, err = parseSnapshot(text)
	}
	if err != nil {
		return s, fmt.Errorf("look which transactions are visible: %w", err)
	}
	return s, nil
}

// parseSnapshot reads xmin:xmax:xip,xip.
func parseSnapshot(text string) (s snapshot, err error) {
	_, rest, _ := strings.Cut(text, ":")
	next, open, ok := strings.Cut(rest, ":")
	if !ok {
		return s, errors.New("not a snapshot: " + text)
	}
	if s.next, err = strconv.ParseUint(next, 10, 64); err != nil {
		return s, err
	}
	for open != "" {
		var one string
		one, open, _ = strings.Cut(open, ",")
		x, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			return s, err
		}
		s.open = append(s.open, x)
	}
	return s, nil
}

// sees tells whether a transaction that has committed is visible. Of its number only the
// lower half is known; two that live at once differ by less than half of that.
func (s snapshot) sees(xid uint32) bool {
	full := s.next + uint64(int64(int32(xid-uint32(s.next))))
	return full < s.next && !slices.Contains(s.open, full)
}
