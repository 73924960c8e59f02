export { RealtimeError } from './error.js';
export type * from './types.js';
