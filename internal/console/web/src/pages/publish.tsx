import { type Signal, signal, useSignal } from '@preact/signals';
import type { Topic } from 'pgcast';
import { wordsOf } from '../http.js';
import { say } from '../ui/dialog.js';
import { Icon } from '../ui/icons.js';

/** Why a text is no JSON, in words; empty where it is. */
export function jsonProblem(text: string): string {
  if (!text.trim()) return 'Empty: write null if the event has no data.';
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    const words = error instanceof Error ? error.message.replace(/^JSON\.parse: /, '') : String(error);
    const at = /position (\d+)/.exec(words)?.[1];
    if (at === undefined) return `Not JSON yet: ${words.replace(/, (\.{3})?".*is not valid JSON$/s, '')}`;
    const before = text.slice(0, Number(at)).split('\n');
    return `Not JSON yet, line ${before.length}, column ${before.at(-1)!.length + 1}: ${words.replace(/ in JSON.*$/, '')}`;
  }
}

/** What somebody has written into the form: it outlives the form, which goes when an event is looked at. */
export interface Draft {
  event: Signal<string>;
  data: Signal<string>;
  key: Signal<string>;
}

/** A form as it begins. */
export function draftOf(): Draft {
  return { event: signal(''), data: signal('{\n  "hello": "world"\n}'), key: signal('') };
}

/** Adds an event to the topic by hand. */
export function Publish({ topic, draft }: { topic: Topic; draft: Draft }) {
  const { event, data, key } = draft;
  const busy = useSignal(false);
  const tried = useSignal(false);
  const error = useSignal<unknown>(undefined);
  const problem = jsonProblem(data.value);
  const unnamed = !event.value.trim();
  const submit = async () => {
    tried.value = true;
    error.value = undefined;
    if (problem || unnamed || busy.value) return;
    busy.value = true;
    try {
      const options = key.value ? { key: key.value } : {};
      const { id } = await topic.publish(event.value.trim(), JSON.parse(data.value), options);
      say(`Published ${event.value.trim()}, id ${id}`);
      tried.value = false;
    } catch (reason) {
      error.value = reason;
    }
    busy.value = false;
  };
  const failure = error.value ? wordsOf(error.value) : undefined;
  return (
    <form class="publish" noValidate
      onSubmit={(e) => {
        e.preventDefault();
        void submit();
      }}
      onKeyDown={(e) => {
        if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) {
          e.preventDefault();
          void submit();
        }
      }}>
      <label class="field">
        <span>Event</span>
        <input name="event" value={event.value} onInput={(e) => (event.value = e.currentTarget.value)} placeholder="greeting" maxLength={256}
          autocomplete="off" spellcheck={false} aria-invalid={tried.value && unnamed} aria-describedby="publish-event" />
        <small id="publish-event" class={tried.value && unnamed ? 'bad' : 'dim'}>
          {tried.value && unnamed ? 'Give the event a name.' : 'What happened, in a word'}
        </small>
      </label>
      <label class="field">
        <span>Data</span>
        <textarea name="data" rows={6} spellcheck={false} value={data.value} onInput={(e) => (data.value = e.currentTarget.value)}
          aria-invalid={!!problem} aria-describedby="publish-data" />
        <small id="publish-data" class={problem ? 'bad' : 'dim'} aria-live="polite">
          {problem || 'JSON, as it is stored'}
        </small>
      </label>
      <label class="field">
        <span>Key <em>optional</em></span>
        <input name="key" value={key.value} onInput={(e) => (key.value = e.currentTarget.value)} autocomplete="off" spellcheck={false}
          aria-describedby="publish-key" />
        <small id="publish-key" class="dim">The same key within 24 hours adds nothing</small>
      </label>
      {failure && (
        <p class="field-error" role="alert">
          {failure.message}
          {failure.hint && ` ${failure.hint}`}
        </p>
      )}
      <div class="form-foot">
        <span class="dim"><kbd>Ctrl</kbd> <kbd>Enter</kbd></span>
        <button type="submit" class="primary" disabled={busy.value}>
          <Icon name="send" />
          {busy.value ? 'Publishing…' : 'Publish'}
        </button>
      </div>
    </form>
  );
}
