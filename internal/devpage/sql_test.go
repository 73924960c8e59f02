package devpage

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// post runs SQL as the page does.
func post(t *testing.T, s *httptest.Server, sql string) (int, result) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"sql": sql})
	if err != nil {
		t.Fatal(err)
	}
	status, text := ask(t, s, string(body), map[string]string{})
	var res result
	if err := json.Unmarshal([]byte(text), &res); err != nil {
		t.Fatalf("%s gave %s: %v", sql, text, err)
	}
	return status, res
}

// ask sends a request that is the page's own, but for the given headers. An empty value
// leaves one out.
func ask(t *testing.T, s *httptest.Server, body string, headers map[string]string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/dev/sql", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Origin", s.URL)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	for name, value := range headers {
		switch {
		case name == "Host":
			req.Host = value
		case value == "":
			req.Header.Del(name)
		default:
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func words(row []*string) string {
	var list []string
	for _, v := range row {
		if v == nil {
			list = append(list, "null")
		} else {
			list = append(list, *v)
		}
	}
	return strings.Join(list, "|")
}

func TestRun(t *testing.T) {
	db := pgtest.New(t, nil)
	db.Exec(t, "create table t (id int primary key, note text)")
	s := serve(t, Options{Pool: db.Pool(t)})
	for _, c := range []struct {
		name, sql string
		tags      string
		rows      []string
		problem   string // begins so
		position  int32
	}{
		{name: "one", sql: "select 1 as a, null as b, 'x' as c", tags: "SELECT 1", rows: []string{"1|null|x"}},
		{name: "last rows", sql: "select 1; select 2 as b; insert into t values (1, 'one')", tags: "SELECT 1, SELECT 1, INSERT 0 1", rows: []string{"2"}},
		{name: "returning", sql: "update t set note = 'two' returning *", tags: "UPDATE 1", rows: []string{"1|two"}},
		{name: "rolled back", sql: "begin; insert into t values (2, 'x'); rollback; select count(*) from t", tags: "BEGIN, INSERT 0 1, ROLLBACK, SELECT 1", rows: []string{"1"}},
		{name: "no rows", sql: "select * from t where false", tags: "SELECT 0", rows: []string{}},
		{name: "comment", sql: "-- nothing", tags: ""},
		{name: "unknown column", sql: "select 'ü', bodi from t", problem: `column "bodi" does not exist`, position: 13},
		{name: "second statement", sql: "select 1; selekt 2", problem: "syntax error", position: 11},
		{name: "not the first", sql: "insert into t values (5, 'x'); select 1/0", tags: "INSERT 0 1", problem: "division by zero"},
		{name: "and so not committed", sql: "select count(*) from t where id = 5", tags: "SELECT 1", rows: []string{"0"}},
		{name: "publish", sql: "select pgcast.publish('__x', 'e')", problem: "pgcast: topic '__x' is the server's own"},
		{name: "copy out", sql: "copy t to stdout", tags: "COPY 1"},
	} {
		status, res := post(t, s, c.sql)
		if status != 200 || strings.Join(res.Tags, ", ") != c.tags {
			t.Errorf("%s: status %d, tags %q, want %q", c.name, status, res.Tags, c.tags)
		}
		var rows []string
		for _, r := range res.Rows {
			rows = append(rows, words(r))
		}
		if strings.Join(rows, "\n") != strings.Join(c.rows, "\n") {
			t.Errorf("%s: rows %q, want %q", c.name, rows, c.rows)
		}
		switch {
		case c.problem == "" && res.Error != nil:
			t.Errorf("%s: %+v", c.name, res.Error)
		case c.problem != "" && (res.Error == nil || !strings.HasPrefix(res.Error.Message, c.problem) || res.Error.Position != c.position || res.Error.Code == ""):
			t.Errorf("%s: error %+v, want %q at %d", c.name, res.Error, c.problem, c.position)
		}
	}
}

func TestRunTellsMore(t *testing.T) {
	db := pgtest.New(t, nil)
	s := serve(t, Options{Pool: db.Pool(t)})
	_, res := post(t, s, "select 1 as n, 'a' as t, 1.5 as m, true as b")
	var numbers []string
	for _, c := range res.Columns {
		if c.Number {
			numbers = append(numbers, c.Name)
		}
	}
	if got := strings.Join(numbers, ","); got != "n,m" {
		t.Errorf("columns with numbers: %s", got)
	}
	if _, res = post(t, s, "do $$ begin raise notice 'look'; raise warning 'out'; end $$"); strings.Join(res.Notices, ", ") != "notice: look, warning: out" {
		t.Errorf("notices: %q", res.Notices)
	}
	if _, res = post(t, s, "select pgcast.publish('a:*', 'e')"); res.Error == nil || res.Error.Hint == "" {
		t.Errorf("no hint: %+v", res.Error)
	}
	if _, res = post(t, s, "begin; create table left_open ()"); !res.Open {
		t.Error("a transaction left open is not told")
	}
	if pgtest.Value[bool](t, db, "select to_regclass('left_open') is not null") {
		t.Error("a transaction left open was committed")
	}
}

// Each run is a session of its own.
func TestRunKeepsNothing(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t)})
	if _, res := post(t, s, "set search_path = pg_catalog; create temp table x (); select pg_advisory_lock(1); set statement_timeout = 0; listen a"); res.Error != nil {
		t.Fatal(res.Error)
	}
	_, res := post(t, s, "select current_setting('search_path'), current_setting('statement_timeout'), to_regclass('x')")
	if len(res.Rows) != 1 || words(res.Rows[0]) != `"$user", public|10s|null` {
		t.Errorf("left over: %v", res.Rows)
	}
	// The session's end is Postgres's to come to, after we have gone.
	if _, res = post(t, s, "select pg_advisory_lock(1)"); res.Error != nil {
		t.Errorf("the lock is left over: %v", res.Error)
	}
}

func TestRunLimits(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t)})
	if _, res := post(t, s, "select n from generate_series(1, 3000) n"); len(res.Rows) != maxRows || !res.Cut || res.Tags[0] != "SELECT 3000" {
		t.Errorf("3,000 rows gave %d, cut %v, %v", len(res.Rows), res.Cut, res.Tags)
	}
	if _, res := post(t, s, "select n from generate_series(1, 1000) n"); len(res.Rows) != maxRows || res.Cut {
		t.Errorf("1,000 rows gave %d, cut %v", len(res.Rows), res.Cut)
	}
	if _, res := post(t, s, "select repeat('ü', 100000)"); !res.Cut || len(*res.Rows[0][0]) > maxCell+3 || !strings.HasSuffix(*res.Rows[0][0], "ü…") {
		t.Errorf("a long value: cut %v, %d bytes", res.Cut, len(*res.Rows[0][0]))
	}
	if _, res := post(t, s, "select repeat('x', 4000) from generate_series(1, 1000)"); !res.Cut || len(res.Rows)*4000 > maxTable+4000 {
		t.Errorf("many long values: cut %v, %d rows", res.Cut, len(res.Rows))
	}
	if _, res := post(t, s, "set statement_timeout = '50ms'; select pg_sleep(60)"); res.Error == nil || !strings.Contains(res.Error.Message, "and was stopped") {
		t.Errorf("a statement that takes too long: %+v", res.Error)
	}
	for _, c := range []struct {
		name, body string
		want       int
	}{
		{"too long", `{"sql":"` + strings.Repeat("x", maxStatement) + `"}`, 413},
		{"no JSON", `select 1`, 400},
		{"nothing", `{}`, 400},
		{"blank", `{"sql":" \n"}`, 400},
		{"zero byte", `{"sql":"select 1\u0000"}`, 400},
		{"not a string", `{"sql":1}`, 400},
		{"copy in", `{"sql":"select 1;\n copy t (a) FROM  stdin with csv"}`, 400},
	} {
		status, text := ask(t, s, c.body, nil)
		var res result
		if err := json.Unmarshal([]byte(text), &res); status != c.want || err != nil || res.Error == nil || res.Error.Message == "" {
			t.Errorf("%s: status %d, want %d: %.200s", c.name, status, c.want, text)
		}
	}
}

// A statement of somebody who has closed the page does not go on.
func TestRunEndsWithRequest(t *testing.T) {
	db := pgtest.New(t, nil)
	s := serve(t, Options{Pool: db.Pool(t)})
	client := &http.Client{Timeout: 500 * time.Millisecond}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/dev/sql", strings.NewReader(`{"sql":"select pg_sleep(60)"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Origin", s.URL)
	if resp, err := client.Do(req); err == nil {
		resp.Body.Close()
		t.Fatalf("it was answered: %s", resp.Status)
	}
	deadline := time.Now().Add(patience)
	for pgtest.Value[int](t, db, "select count(*)::int from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()") > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the statement still runs")
		}
	}
}

func TestOnlyFromPage(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t)})
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	at := func(host string) map[string]string {
		host = host + ":" + u.Port()
		return map[string]string{"Host": host, "Origin": "http://" + host}
	}
	for _, c := range []struct {
		name    string
		headers map[string]string
		want    int
	}{
		{"the page", nil, 200},
		{"an older browser", map[string]string{"Sec-Fetch-Site": ""}, 200},
		{"localhost", at("localhost"), 200},
		{"any loopback address", at("127.4.5.6"), 200},
		{"IPv6", at("[::1]"), 200},
		{"reserved name", at("pgcast.localhost"), 200},
		{"upper case", map[string]string{"Host": "LOCALHOST:1", "Origin": "http://localhost:1"}, 200},
		{"with charset", map[string]string{"Content-Type": "application/json; charset=utf-8"}, 200},

		{"no origin", map[string]string{"Origin": ""}, 403},
		{"null origin", map[string]string{"Origin": "null"}, 403},
		{"another site", map[string]string{"Origin": "http://evil.example"}, 403},
		{"another port", map[string]string{"Origin": "http://127.0.0.1:1"}, 403},
		{"another name of this machine", map[string]string{"Origin": "http://localhost:" + u.Port()}, 403},
		{"not the web", map[string]string{"Origin": "file://" + u.Host}, 403},
		{"prefix", map[string]string{"Origin": s.URL + ".evil.example"}, 403},
		{"cross-site", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"same-site", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"typed", map[string]string{"Sec-Fetch-Site": "none"}, 403},
		{"rebound name", at("evil.example"), 403},
		{"rebound name like an address", at("127.0.0.1.evil.example"), 403},
		{"rebound name like localhost", at("localhost.evil.example"), 403},
		{"address of the network", at("192.168.1.5"), 403},
		{"form", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415},
		{"plain text", map[string]string{"Content-Type": "text/plain"}, 415},
		{"no type", map[string]string{"Content-Type": ""}, 415},
	} {
		if status, text := ask(t, s, `{"sql":"select 1"}`, c.headers); status != c.want {
			t.Errorf("%s: status %d, want %d: %s", c.name, status, c.want, text)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodOptions} {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/dev/sql", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 == 2 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
}

func TestOnlyFromThisMachine(t *testing.T) {
	h := Handler(Options{Pool: pgtest.New(t, nil).Pool(t)})
	for addr, want := range map[string]int{
		"127.0.0.1:5": 200, "[::1]:5": 200, "[::ffff:127.0.0.1]:5": 200,
		"192.168.1.5:5": 403, "[fe80::1%eth0]:5": 403, "8.8.8.8:5": 403, "": 403, "@": 403,
	} {
		req := httptest.NewRequest(http.MethodPost, "http://localhost:8080/dev/sql", strings.NewReader(`{"sql":"select 1"}`))
		req.RemoteAddr = addr
		req.Header.Set("Origin", "http://localhost:8080")
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != want {
			t.Errorf("from %q: status %d, want %d", addr, w.Code, want)
		}
	}
}

func TestDatabaseAway(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	status, res := post(t, serve(t, Options{Pool: pool}), "select 1")
	if status != http.StatusServiceUnavailable || res.Error == nil || res.Error.Message != "The database cannot be reached." {
		t.Errorf("status %d, %+v", status, res.Error)
	}
}

// Arguments are parameters of the statement, never a part of its text.
func TestArguments(t *testing.T) {
	db := pgtest.New(t, nil)
	s := serve(t, Options{Pool: db.Pool(t)})
	run := func(sql, args string) result {
		t.Helper()
		status, text := ask(t, s, `{"sql":"`+sql+`","args":`+args+`}`, nil)
		var res result
		if err := json.Unmarshal([]byte(text), &res); err != nil || status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", sql, args, status, text)
		}
		return res
	}
	res := run(`select $1::text, $2::int, $3::bool, $4::text is null, $5::jsonb->>'a', $6::text = ''`, `["it's; drop",41,true,null,{"a":"b"},""]`)
	if len(res.Rows) != 1 || words(res.Rows[0]) != "it's; drop|41|t|t|b|t" || len(res.Tags) != 1 || res.Tags[0] != "SELECT 1" {
		t.Errorf("got %+v", res)
	}
	if res = run(`select 1 / $1::int`, `[0]`); res.Error == nil || res.Error.Code != "22012" || len(res.Tags) != 0 {
		t.Errorf("an error: %+v", res)
	}
	if res = run(`select $1::int; select 2`, `[1]`); res.Error == nil {
		t.Errorf("two statements with arguments: %+v", res)
	}
	for _, body := range []string{`{"sql":"select $1","args":["\u0000"]}`, `{"sql":"select $1","args":1}`} {
		if status, text := ask(t, s, body, nil); status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", body, status, text)
		}
	}
}
