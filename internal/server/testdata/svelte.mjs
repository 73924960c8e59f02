// Runs the browser client of svelte-adapter-uws, unmodified, against a server. Says on
// stdout, one JSON value a line, what its stores tell, and drops the connection when a
// line comes in.
import { WebSocket } from 'ws';

let newest;
globalThis.window = { location: { protocol: 'http:', host: process.argv[2] } };
globalThis.WebSocket = class extends WebSocket {
	constructor(url) {
		super(url);
		newest = this;
	}
};
const { connect, crud, on, status } = await import('svelte-adapter-uws/client');

const say = (store) => (value) => console.log(JSON.stringify({ store, value }));
connect({ reconnectInterval: 50 });
status.subscribe(say('status'));
on('todo').subscribe(say('on'));
on('todo', 'deleted').subscribe(say('deleted'));
crud('todo').subscribe(say('crud'));
process.stdin.on('data', () => newest.terminate());
process.stdin.on('end', () => process.exit(0));
