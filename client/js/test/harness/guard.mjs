// Runs a program for as long as whoever started it lives: node guard.mjs DIR PROGRAM ARGUMENT…
// It tells its parent the program's pid over the channel between them. When that channel
// closes, for whatever reason, also a kill -9, the program is asked to end, and after 10 s made
// to. Then DIR, unless it is "-", is removed. So a failed test leaves no server behind.
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';

const [dir, program, ...args] = process.argv.slice(2);
const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'], cwd: dir === '-' ? undefined : dir });

function end() {
  child.kill('SIGTERM');
  setTimeout(() => child.kill('SIGKILL'), 10_000).unref();
}

process.on('disconnect', end);
// Ctrl-C reaches the whole group: the program hears of it by itself.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, end);

child.on('error', (err) => {
  process.stderr.write(`start ${program}: ${err.message}\n`);
  process.exit(127);
});
child.on('spawn', () => process.send?.({ pid: child.pid }));
child.on('exit', (code, signal) => {
  if (dir !== '-') rmSync(dir, { recursive: true, force: true });
  process.exit(code ?? (signal === 'SIGKILL' ? 137 : 1));
});
