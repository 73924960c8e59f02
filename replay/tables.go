package replay

import (
	"context"

	"github.com/pgcast/pgcast"
)

// Tables gives the attached tables, as far as subscriptions depend on how they are captured.
// It costs some 3 ms for each.
func (l *Log) Tables(ctx context.Context) ([]pgcast.Table, error) {
	rows, err := l.queries.AttachmentSources(ctx)
	if err != nil {
		return nil, unavailable("look how tables are attached", err)
	}
	list := make([]pgcast.Table, len(rows))
	for i, r := range rows {
		list[i] = pgcast.Table{Name: r.Relation, Columns: r.Captured, Key: r.Key, Old: r.Old, Mend: r.Mend, Literals: r.Literals, Short: r.IsShort}
	}
	return list, nil
}
