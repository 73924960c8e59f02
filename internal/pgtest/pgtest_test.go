package pgtest_test
import ("testing";"time"; "github.com/pgcast/pgcast/internal/pgtest")
func TestSmoke(t *testing.T){
 for range 6{
 t0:=time.Now()
 db:=pgtest.New(t,nil)
 t.Log(time.Since(t0),db.URL)
 }
 db:=pgtest.New(t,&pgtest.Options{Kind:pgtest.TwoPhase})
 t.Log(pgtest.Value[int](t,db,"select count(*)::int from pgcast.event_log"))
}
