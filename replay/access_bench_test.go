package replay

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// BenchmarkAccessDecide is what one question costs, of 256 that go together, where there are
// 20 rules.
func BenchmarkAccessDecide(b *testing.B) {
	db := pgtest.New(b, nil)
	for i := range 18 {
		db.Exec(b, fmt.Sprintf(`select pgcast.allow('{subscribe}', 'kind%d:*', role => 'user')`, i))
	}
	db.Exec(b, `select pgcast.allow('{subscribe}', 'user:{sub}:**')`)
	access := NewAccess(db.Pool(b), nil)
	var who []json.RawMessage
	var questions []Question
	for i := range 256 {
		who = append(who, fmt.Appendf(nil, `{"sub":"user%d","role":"user","email":"user%d@example.com","org":%d}`, i, i, i))
		questions = append(questions, Question{i, "subscribe", fmt.Sprintf("user:user%d:inbox", i)})
	}
	for b.Loop() {
		allowed, errs := access.Decide(b.Context(), who, questions)
		for i := range allowed {
			if !allowed[i] || errs[i] != nil {
				b.Fatal(allowed[i], errs[i])
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(questions)), "µs/question")
}
