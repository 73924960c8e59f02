package doctor

import (
	"context"
	"strings"
)

// checkRowSecurity looks whether the tables whose row security is enforced can be shown as
// their policies have it.
func checkRowSecurity(ctx context.Context, x *exam) ([]finding, error) {
	type trouble struct{ Table, Role, Problem, Mend string }
	troubles, err := collect[trouble](ctx, x, `select e.name, e.role, coalesce(e.problem, case when not exists (select from pg_policy p where p.polrelid = e.relation) then 'it has no policy' end, ''),
		coalesce(e.mend, format('create policy ... on %s for select to %I using (...)', e.name, e.role)) from pgcast.enforced() e order by 1`)
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, t := range troubles {
		run := inSQL("%s", strings.TrimSuffix(t.Mend, ";"))
		if !strings.HasSuffix(t.Mend, ";") {
			run = inWords("%s", t.Mend)
		}
		if t.Problem != "" {
			list = append(list, fail(run, "rows of %s are shown to nobody: %s", t.Table, t.Problem))
		}
	}
	switch {
	case len(troubles) == 0:
		list = append(list, ok("it is enforced for no table"))
	case list == nil:
		list = append(list, ok("%s shown as policies have it", several(len(troubles), "table")))
	}
	return cut(list, x.limits.listed), nil
}
