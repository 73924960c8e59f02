import { signal } from '@preact/signals';
import type { Me } from './api.js';

/** An error that the server answered with, or that there was no answer. */
export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly hint = '',
    readonly status = 0,
  ) {
    super(message);
  }
}

const tokenKey = 'pgcast.console.token';

function kept(): string {
  try {
    return sessionStorage.getItem(tokenKey) ?? '';
  } catch {
    return '';
  }
}

/** What the server says of itself and of the token; undefined before its first answer. */
export const me = signal<Me | undefined>(undefined);
/** The admin token of this tab; empty for none. */
export const token = signal(kept());
/** Why the server cannot be reached now; empty while it can. */
export const away = signal('');

/** Keeps the token for as long as the tab lives; an empty one is forgotten. */
export function keepToken(value: string): void {
  token.value = value;
  try {
    if (value) sessionStorage.setItem(tokenKey, value);
    else sessionStorage.removeItem(tokenKey);
  } catch {
    // Storage may be forbidden: then the token lives as long as the page.
  }
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (token.value) headers.set('Authorization', `Bearer ${token.value}`);
  let answer: Response;
  try {
    answer = await fetch(`api/${path}`, { ...init, headers, cache: 'no-store', redirect: 'error' });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    away.value = 'The server does not answer.';
    throw new ApiError('unreachable', 'The server does not answer', 'The page goes on by itself when it is there again.');
  }
  away.value = '';
  if (answer.ok) return answer;
  let code = '';
  let message = `The server answered ${answer.status}`;
  let hint = '';
  try {
    const body = (await answer.json()) as { error?: { code?: string; message?: string; hint?: string } };
    code = body.error?.code ?? '';
    message = body.error?.message ?? message;
    hint = body.error?.hint ?? '';
  } catch {
    // Not JSON: the status says all there is.
  }
  if (answer.status === 401 && me.value?.signedIn) me.value = { ...me.value, signedIn: false, token: true };
  throw new ApiError(code, message, hint, answer.status);
}

/** Reads JSON below /console/api/. Fails with ApiError. */
export async function read<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, signal ? { signal } : {})).json()) as T;
}

/** Sends JSON, and gives the answer's; undefined for 204. Fails with ApiError. */
export async function send<T>(path: string, body: unknown): Promise<T> {
  const answer = await ask(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  return (answer.status === 204 ? undefined : await answer.json()) as T;
}

/** Asks who this is, by the kept token. */
export async function lookWhoIAm(): Promise<Me> {
  const answer = await read<Me>('me');
  me.value = answer;
  return answer;
}

/** What went wrong, in words; anything may have been thrown. */
export function wordsOf(error: unknown): { message: string; hint: string } {
  if (error instanceof ApiError) return { message: error.message, hint: error.hint };
  const message = error instanceof Error ? error.message : String(error);
  const hint = error instanceof Error && 'hint' in error && typeof error.hint === 'string' ? error.hint : '';
  return { message, hint };
}
