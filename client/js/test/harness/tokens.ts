// Tokens as an identity provider would sign them.
import { createHmac } from 'node:crypto';

/** The key of the server that tokens() starts. At least 32 bytes. */
export const secret = 'a secret of tests, known to everybody';

/** Signs a JWT with HS256. seconds is for how long it is valid; it may be in the past. */
export function sign(claims: Record<string, unknown>, seconds = 600, key = secret): string {
  const now = Date.now() / 1000;
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iat: Math.floor(now), exp: now + seconds, ...claims })}`;
  return `${text}.${createHmac('sha256', key).update(text).digest('base64url')}`;
}
