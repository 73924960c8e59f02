/** A refusal of the server, or of the client itself. code is one of docs/protocol.md's. */
export class RealtimeError extends Error {
  override readonly name = 'RealtimeError';
  constructor(
    readonly code: string,
    message: string,
    /** In milliseconds; where waiting helps. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}
