import { useEffect, useRef } from 'preact/hooks';
import { type Signal, useSignal } from '@preact/signals';
import { read } from './http.js';

/** What is known of something that is asked for again and again. */
export interface Polled<T> {
  data: Signal<T | undefined>;
  /** The newest answer was an error; data is then older. */
  error: Signal<unknown>;
  refresh: () => Promise<void>;
}

/**
 * Asks for path at once and every so many milliseconds, while the page is seen; 0 asks once. Of
 * another path the old data is thrown away, unless keep says to show it until the new is there.
 */
export function usePoll<T>(path: string, every: number, keep = false): Polled<T> {
  const data = useSignal<T | undefined>(undefined);
  const error = useSignal<unknown>(undefined);
  const refresh = useRef<() => Promise<void>>(async () => {});

  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let running: Promise<void> | undefined;
    const once = async () => {
      try {
        const value = await read<T>(path, stop.signal);
        if (stop.signal.aborted) return;
        data.value = value;
        error.value = undefined;
      } catch (reason) {
        if (!stop.signal.aborted) error.value = reason;
      }
    };
    const run = async () => {
      clearTimeout(timer);
      running ??= once().finally(() => (running = undefined));
      await running;
      clearTimeout(timer);
      if (every > 0 && !stop.signal.aborted && !document.hidden) timer = setTimeout(run, every);
    };
    const seen = () => {
      if (!document.hidden && every > 0) void run();
    };
    if (!keep) data.value = undefined;
    error.value = undefined;
    refresh.current = run;
    document.addEventListener('visibilitychange', seen);
    void run();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', seen);
    };
  }, [path, every]);

  return { data, error, refresh: () => refresh.current() };
}
