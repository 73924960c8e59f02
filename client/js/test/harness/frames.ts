// As much of RFC 6455 as it takes to see whole messages in a stream of bytes.

/** One message of a WebSocket, or one control frame. */
export interface Raw {
  opcode: number;
  /** As it was on the wire: of a fragmented message all its frames. */
  bytes: Buffer;
  /** Unmasked. */
  payload: Buffer;
}

export const text = 1;

/** Cuts a stream into messages. */
export class Frames {
  private rest: Buffer = Buffer.alloc(0);
  private parts: Raw[] = [];

  /** Gives the messages that chunk completes. */
  push(chunk: Buffer): Raw[] {
    this.rest = this.rest.length ? Buffer.concat([this.rest, chunk]) : chunk;
    const messages: Raw[] = [];
    for (;;) {
      const frame = this.next();
      if (!frame) return messages;
      if (frame.opcode >= 8) {
        messages.push(frame);
        continue;
      }
      this.parts.push(frame);
      if (!frame.final) continue;
      messages.push({
        opcode: this.parts[0]!.opcode,
        bytes: Buffer.concat(this.parts.map((part) => part.bytes)),
        payload: Buffer.concat(this.parts.map((part) => part.payload)),
      });
      this.parts = [];
    }
  }

  private next(): (Raw & { final: boolean }) | undefined {
    const b = this.rest;
    if (b.length < 2) return undefined;
    let at = 2;
    let length = b[1]! & 127;
    if (length === 126) {
      if (b.length < 4) return undefined;
      length = b.readUInt16BE(2);
      at = 4;
    } else if (length === 127) {
      if (b.length < 10) return undefined;
      length = Number(b.readBigUInt64BE(2));
      at = 10;
    }
    const masked = (b[1]! & 128) !== 0;
    const mask = masked ? b.subarray(at, at + 4) : undefined;
    if (masked) at += 4;
    if (b.length < at + length) return undefined;
    const payload = Buffer.from(b.subarray(at, at + length));
    if (mask) for (let i = 0; i < length; i++) payload[i]! ^= mask[i & 3]!;
    this.rest = b.subarray(at + length);
    return { opcode: b[0]! & 15, final: (b[0]! & 128) !== 0, bytes: b.subarray(0, at + length), payload };
  }
}
