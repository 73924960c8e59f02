import { o as EventMap, p as Notices, u as Heard } from "./types.js";

//#region src/hooks.d.ts
/** Who is here, and this session's part in it. */
interface Present<User = Record<string, unknown>> {
  /** By key. Each user is there once. */
  readonly users: ReadonlyMap<string, User>;
  /** The key of this session's own user, after it has joined. */
  readonly me?: string;
  /** Why it could not join. */
  readonly error?: Error;
}
/** What useTopic listens to: handlers by the name of an event or notice. */
type TopicHandlers<E extends EventMap> = string extends keyof E ? {
  [name: string]: (heard: any) => void;
} : { [Name in (keyof E & string) | keyof Notices]?: (heard: Heard<E, Name>) => void };
//#endregion
export { TopicHandlers as n, Present as t };