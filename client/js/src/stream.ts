import type { Frame } from './link.js';
import { problem } from './sse.js';

/** A topic or pattern of a stream. */
export interface Mark {
  topic: string;
  /** Of the subscribe that it answers. */
  ref: unknown;
  /** Where it stands, as Last-Event-ID has it. */
  place: string;
  answered: boolean;
}

/** What a stream is part of. */
interface Owner {
  fetch(path: string, init?: RequestInit): Promise<Response>;
  tell(frame: Frame): void;
  refused(response: Response): Promise<void>;
  end(code: number, reason: string): void;
  openSoon(): void;
}

/** Of one stream; docs/http.md allows 50, and 16 KiB for URL and headers. */
const maxTopics = 50;
const maxBytes = 10_000;

const reasons: Record<string, string> = {
  forbidden: 'FORBIDDEN',
  invalid_topic: 'INVALID_TOPIC',
  too_many: 'TOO_MANY',
};

/** One stream of Server-Sent Events, of several topics. When they change it is opened anew and goes on where they are. */
export class Stream {
  marks: Mark[] = [];
  changed = false;
  #open = new AbortController();

  constructor(
    readonly owner: Owner,
    readonly filter: string | undefined,
    readonly snapshot: boolean,
  ) {}

  takes(mark: Mark): boolean {
    const bytes = (one: Mark): number => encodeURIComponent(one.topic).length + one.place.length + 60;
    return this.marks.length < maxTopics && this.marks.reduce((sum, one) => sum + bytes(one), bytes(mark)) < maxBytes;
  }

  remove(topic: string): boolean {
    const before = this.marks.length;
    this.marks = this.marks.filter((mark) => mark.topic !== topic);
    if (this.marks.length === before) return false;
    this.changed = true;
    // Nothing more of it, and the places of the others stay as they are until it is open again.
    this.#open.abort();
    return true;
  }

  close(): void {
    this.#open.abort();
  }

  open(): void {
    this.#open.abort();
    this.#open = new AbortController();
    this.changed = false;
    const { signal } = this.#open;
    this.#read(this.marks, signal).catch((error: Error) => {
      if (!signal.aborted) this.owner.end(0, error.message);
    });
  }

  #fetch(marks: Mark[], signal: AbortSignal): Promise<Response> {
    const query = new URLSearchParams(marks.slice(1).map((mark) => ['topic', mark.topic]));
    if (this.filter) query.set('filter', this.filter);
    if (this.snapshot) query.set('snapshot', 'true');
    const places = marks.map((mark) => mark.place);
    const headers: Record<string, string> = places.some((place) => place !== '-') ? { 'Last-Event-ID': places.join() } : {};
    return this.owner.fetch(`/topics/${encodeURIComponent(marks[0]!.topic)}/sse?${query}`, { headers, signal });
  }

  async #read(marks: Mark[], signal: AbortSignal): Promise<void> {
    const response = await this.#fetch(marks, signal);
    if (!response.ok) return this.#refused(response, marks, signal);
    const reader = response.body!.getReader();
    const decoder = new TextDecoder();
    let rest = '';
    let event: Record<string, string> = {};
    let retry: string | undefined;
    for (let heads = 0; ; ) {
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (done) break;
      const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
      rest = lines.pop()!;
      for (const line of lines) {
        const [, name, text] = /^([^:]*):? ?(.*)$/.exec(line)!;
        if (name) event[name] = text!;
        else if (line) this.owner.tell({ type: 'hb' });
        else {
          // The first says when to come back after an accident, a later one that the server drains.
          if (event.retry && heads++) retry = event.retry;
          if (event.data) this.#take(marks, event);
          event = {};
        }
        if (signal.aborted) return;
      }
    }
    // A topic that was denied ends the stream, not what is on it beside.
    if (this.changed) return this.owner.openSoon();
    this.owner.end(retry ? 1001 : 1006, retry ? `retry=${retry}` : 'the stream ended');
  }

  #take(marks: Mark[], event: Record<string, string>): void {
    const places = event.id?.split(',') ?? [];
    marks.forEach((mark, i) => {
      mark.place = places[i] ?? mark.place;
    });
    const frame = JSON.parse(event.data!) as Frame;
    if (event.event === 'subscribed') {
      const mark = marks.find((one) => one.topic === frame.topic);
      // When it is opened anew, nobody has asked; another place is followed by a reset.
      if (!mark || mark.answered) return;
      mark.answered = true;
      frame.ref = mark.ref;
    }
    if (event.event === 'denied') {
      this.marks = this.marks.filter((mark) => mark.topic !== frame.topic);
      this.changed = true;
    }
    this.owner.tell(frame);
  }

  /** Finds out which topic a stream was refused for: the others are not to suffer. */
  async #refused(response: Response, marks: Mark[], signal: AbortSignal): Promise<void> {
    const { status } = response;
    if (status === 401 || status === 429 || status >= 500) return this.owner.refused(response);
    for (const mark of marks) {
      const alone = marks.length > 1 ? await this.#fetch([mark], signal) : response;
      if (alone.ok) {
        await alone.body?.cancel();
        continue;
      }
      if (alone.status === 401 || alone.status === 429 || alone.status >= 500) return this.owner.refused(alone);
      const { code, message } = await problem(alone);
      if (signal.aborted) return;
      this.marks = this.marks.filter((one) => one !== mark);
      const reason = reasons[code] ?? (this.filter ? 'INVALID_FILTER' : code);
      this.owner.tell({ type: 'subscribe-denied', topic: mark.topic, ref: mark.ref, reason, message });
    }
    this.changed = true;
    this.owner.openSoon();
  }
}
