// Runs the presence store of svelte-adapter-uws, unmodified, against a server: as its
// documentation has it, beside a store of the topic. Says on stdout, one JSON value a line,
// what the stores tell, until its input ends.
import { WebSocket } from 'ws';

globalThis.window = { location: { protocol: 'http:', host: process.argv[2] } };
globalThis.WebSocket = WebSocket;
const { connect, on, status } = await import('svelte-adapter-uws/client');
const { presence } = await import('svelte-adapter-uws/plugins/presence/client');

const say = (store) => (value) => console.log(JSON.stringify({ store, value }));
connect({ reconnectInterval: 50 });
status.subscribe(say('status'));
on('room:1').subscribe(() => {});
presence('room:1').subscribe(say('presence'));
presence('room:1', { maxAge: 2000 }).subscribe(say('aging'));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
