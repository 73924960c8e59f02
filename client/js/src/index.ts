export { connect } from './connect.js';
export { RealtimeError } from './error.js';
export type * from './types.js';
