// Runs the cursor store of svelte-adapter-uws, unmodified, against a server. Says
// on stdout, one JSON value a line, what it tells, and sends each line that comes in as a
// frame.
import { createInterface } from 'node:readline';
import { WebSocket } from 'ws';

globalThis.window = { location: { protocol: 'http:', host: process.argv[2] } };
globalThis.WebSocket = WebSocket;
const { connect, status } = await import('svelte-adapter-uws/client');
const { cursor } = await import('svelte-adapter-uws/plugins/cursor/client');

const say = (store) => (value) => console.log(JSON.stringify({ store, value }));
const connection = connect({ reconnectInterval: 50 });
status.subscribe(say('status'));
cursor('canvas').subscribe((map) => say('cursor')([...map.values()].map((c) => [c.user.name, c.data])));
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => connection.send(JSON.parse(line)));
lines.on('close', () => process.exit(0));
