/**
 * What the console asks of its server: JSON below /console/api/ of the admin listener. The Go side
 * (internal/console) has the same names. Where the server has an admin token, each request shows
 * it (Authorization: Bearer), and the WebSocket at /console/ws as the client does.
 *
 * Errors are {"error": {code, message, hint}} with a status of 400 or more.
 */

/** GET me: answered without a token, so that the page knows whether to ask for one. What is empty then is told to who is signed in. */
export interface Me {
  /** There is an admin token: ask for it, keep it in sessionStorage. */
  token: boolean;
  /** The token that was shown, if any, is right, or none is needed: the rest is there only then. */
  signedIn: boolean;
  version: string;
  /** Of the database, without user and password. */
  database: string;
  /** There is access control: sessions have subjects. */
  access: boolean;
  /** Where clients connect, as ws://host:port; empty where it is not known. */
  listen: string;
  now: number; // milliseconds since 1970
}

/** One second of this server. */
export interface Sample {
  at: number; // milliseconds since 1970, at its end
  events: number; // sequenced, per second, as this server read them
  deliveries: number; // events handed to sessions, per second
  p50: number | null; // milliseconds from commit to delivery; null where nothing was delivered
  p99: number | null;
  sessions: number;
  behind: number; // subscriptions that read the log
  sequencing: number; // milliseconds from an event's creation to its place, the slowest of this second; 0 for none
  replication: number | null; // milliseconds that this server's reading is behind the log's head; null where it cannot be told
}

/** GET overview?since=MS: the samples after since, of the last 15 minutes at most. */
export interface Overview {
  samples: Sample[];
  sequencer: { mine: boolean; term: number; wake: string };
  totals: { topics: number; events: number; sessions: number; subscriptions: number };
  degraded: string[];
}

/** GET topics?search=TEXT&after=NAME&limit=N: in the order of their names. */
export interface Topics {
  topics: TopicLine[];
  /** Ask again with after=next; empty when there is no more. */
  next: string;
}
export interface TopicLine {
  name: string;
  head: number;
  tail: number;
  rate: number; // events a second, of the last minute
  subscribers: number; // of this server, to exactly this topic
  retention: Retention;
  newest: number | null; // when its newest event was written, in milliseconds
}
export interface Retention {
  pattern: string; // of the rule that holds; empty for the default
  maxAge: string; // as Postgres prints an interval; empty for ever
  maxCount: number | null;
}

/** GET topic?name=NAME */
export interface TopicDetail extends TopicLine {
  tables: string[]; // attached tables that may write to it
  key: string[]; // columns that name a row, where one table with a key is attached; else empty
}

/** GET tables */
export interface Tables {
  tables: Table[];
  /** What is wrong with attached tables: pgcast.drift(). */
  drift: Drift[];
}
export interface Table {
  name: string; // with its schema, quoted where need be, as Postgres prints a regclass
  rows: number; // estimated
  columns: string[]; // all that can be captured, in their order
  key: string[];
  attached: Attachment | null;
}
export interface Attachment {
  topic: string; // template
  columns: string[]; // empty: all
  old: boolean;
  capture: 'trigger' | 'wal';
  enforced: boolean; // row security
}
export interface Drift {
  table: string;
  problem: string;
  mend: string; // SQL
}

/** POST tables/plan: what would be run. POST tables/run: runs it, and answers with what was run. */
export interface Order {
  action: 'attach' | 'detach';
  table: string;
  topic?: string;
  columns?: string[];
  old?: boolean;
  capture?: 'trigger' | 'wal';
}
export interface Plan {
  call: string; // the one call of the function
  statements: string[]; // what it does, as SQL that anybody may read
  /** Why this server's role may not run it; empty where it may. Then somebody runs the call by hand. */
  barred: string;
}

/** GET sessions?search=TEXT&limit=N: of this server. */
export interface Sessions {
  sessions: SessionLine[]; // the newest first
  total: number; // that have the text, also those that are not listed
  server: string; // which one it is: its address for clients
}
export interface SessionLine {
  id: string;
  subject: string; // of its token; empty where nobody knows
  user: string; // what presence shows of it, as text; may be empty
  transport: 'websocket' | 'sse' | 'poll';
  operator: boolean; // it is one of the console's own
  address: string;
  since: number; // milliseconds
  rtt: number | null; // milliseconds, of the newest ping; null where there was none
  subscriptions: string[]; // at most 20 of them
  subscriptionCount: number;
  behind: number; // how many events it has yet to be sent, over its subscriptions
  expires: number | null; // of its token, in milliseconds
}

/** POST sessions/disconnect {id}: 204, or 404. A WebSocket is closed with 4408, resume. The client may come back; revoke its token to keep it out. */

/** GET health: the doctor's findings; ?fresh=1 looks anew, else they are at most 30 s old. */
export interface Health {
  at: number;
  results: Finding[];
}
export interface Finding {
  name: string;
  state: 'ok' | 'note' | 'warn' | 'fail' | 'skip';
  found: string;
  why: string;
  mend: string;
  mend_with: '' | 'sql' | 'shell' | 'words';
}

/** GET docs: what there is to read. GET docs/NAME: one page, as HTML that is safe to show. */
export interface DocsIndex {
  groups: { title: string; pages: { name: string; title: string }[] }[];
}
export interface DocsPage {
  name: string;
  title: string;
  html: string;
  headings: { level: number; id: string; text: string }[];
}
