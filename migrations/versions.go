package migrations

import (
	"io/fs"
	"strconv"
	"strings"
)

// Versions lists the versions of the migrations in this program, oldest first. To know
// which of them a database has, without making goose's table where there is none, compare
// it with [Table].
func Versions() []int64 {
	names, _ := fs.Glob(files, "*.sql") // sorted; the pattern is well formed, and an embed.FS cannot fail
	var list []int64
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		if v, err := strconv.ParseInt(number, 10, 64); err == nil {
			list = append(list, v)
		}
	}
	return list
}
