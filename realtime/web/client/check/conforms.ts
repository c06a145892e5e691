// Compiles only if src/protocol.ts says of every operation and event what the server's schemas (wire.ts) say of it.
import type { Events, Ops, Welcome } from "../src/protocol.js";
import type { Gives, Takes, Tells } from "./wire.js";

type Sent = { [Op in keyof Ops]: Ops[Op]["data"] };
type Answered = { [Op in keyof Ops]: Ops[Op]["ok"] };
type Told = Pick<Events, keyof Tells>;

// What an app may send, the server takes; what the server answers and tells, the app has a type for.
export const sent = (data: Sent): Pick<Takes, keyof Ops> => data;
export const answered = (ok: Pick<Gives, keyof Ops>): Answered => ok;
export const told = (data: Tells): Told => data;
export const welcomed = (ok: Omit<Gives["session.sign_in"], "snapshot">): Welcome => ok;

/** The names of fields, at any depth, that `Full` has and `Own` has not. */
type Unnamed<Full, Own> = unknown extends Full
  ? never
  : Full extends readonly (infer Each)[]
    ? Own extends readonly (infer OwnEach)[]
      ? Unnamed<Each, OwnEach>
      : never
    : Full extends object
      ? Own extends object
        ?
            | Exclude<keyof Full, keyof Own>
            | {
                [Key in keyof Full & keyof Own]-?: Unnamed<NonNullable<Full[Key]>, NonNullable<Own[Key]>>;
              }[keyof Full & keyof Own]
        : never
      : never;

// Neither side knows a field that the other does not.
export const unnamed: never[] = [] as (
  | Unnamed<Pick<Takes, keyof Ops>, Sent>
  | Unnamed<Sent, Takes>
  | Unnamed<Pick<Gives, keyof Ops>, Answered>
  | Unnamed<Answered, Gives>
  | Unnamed<Tells, Told>
  | Unnamed<Told, Tells>
)[];
