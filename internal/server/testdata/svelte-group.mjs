// Runs the browser client of svelte-adapter-uws, unmodified, and its store of a group, against
// a server. Says on stdout, one JSON value a line, what the stores tell, and drops the
// connection when a line comes in.
import { WebSocket } from 'ws';

let newest;
globalThis.window = { location: { protocol: 'http:', host: process.argv[2] } };
globalThis.WebSocket = class extends WebSocket {
	constructor(url) {
		super(url);
		newest = this;
	}
};
const { connect, status } = await import('svelte-adapter-uws/client');
const { group } = await import('svelte-adapter-uws/plugins/groups/client');

const say = (store, value) => console.log(JSON.stringify({ store, value }));
connect({ reconnectInterval: 50 });
status.subscribe((value) => say('status', value));
const lobby = group('lobby');
lobby.subscribe((e) => e && say('group', [e.event, e.data]));
lobby.members.subscribe((list) => say('members', list.map((m) => m.role).sort()));
process.stdin.on('data', () => newest.terminate());
process.stdin.on('end', () => process.exit(0));
