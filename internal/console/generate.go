package console

//go:generate npm --prefix web ci --no-audit --no-fund
//go:generate npm --prefix web run build
