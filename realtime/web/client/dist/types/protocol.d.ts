/**
 * The protocol as types: docs/protocol.md is the reference. Unknown fields may appear and enums may grow, so string
 * unions are left open with `(string & {})`. Times are integer milliseconds UTC, ids are strings, coins are integers.
 */
import type { ErrorBody } from "./errors.js";
type Open<T extends string> = T | (string & {});
type Empty = Record<string, never>;
export interface StreamPosition {
    stream: string;
    epoch: string;
    offset: number;
}
export interface Person {
    id: string;
    name: string;
    avatar_url: string;
}
export type PresenceStatus = Open<"online" | "away" | "busy" | "dnd" | "offline">;
export interface PresenceState {
    user: string;
    status: PresenceStatus;
    bookable: boolean;
    last_seen_ms: number;
}
export type Media = Open<"voice" | "video">;
export interface HostCard {
    user: string;
    name: string;
    avatar_url: string;
    headline: string;
    languages: string[];
    tags: string[];
    category: string;
    media: Media[];
    price_coins: number;
    pulse_ms: number;
    rating: number | null;
    status: PresenceStatus;
    bookable: boolean;
}
export interface Wallet {
    paid: number;
    promo: number;
    coins: number;
    earned: number;
    v: number;
}
export type CallState = Open<"inviting" | "ringing" | "accepted" | "connected" | "ended">;
export type EndReason = Open<"declined" | "cancelled" | "missed" | "unreachable" | "hung_up_by_caller" | "hung_up_by_host" | "insufficient_funds" | "exhausted" | "lost" | "failed">;
export interface Call {
    call_id: string;
    v: number;
    state: CallState;
    reason?: EndReason | null;
    media: Media;
    role: Open<"caller" | "host">;
    peer: Person;
    price_coins: number;
    pulse_ms: number;
    created_ms: number;
    ring_deadline_ms: number;
    ringing_ms?: number | null;
    accepted_ms?: number | null;
    connected_ms?: number | null;
    ended_ms?: number | null;
    funded_until_ms?: number | null;
    /** Charging is paused, because one side cannot be heard. */
    paused?: boolean;
    spent_coins: number;
    earned_coins?: number | null;
    accepted_device?: string | null;
}
/** What a device needs to join the media of its call; fields of the other provider are absent. */
export interface MediaCredentials {
    provider: Open<"webrtc" | "agora">;
    /** Ask again, by call.credentials, before this. */
    expires_ms: number;
    /** WebRTC. */
    ice_servers?: {
        urls: string[];
        username?: string;
        credential?: string;
    }[] | null;
    /** Agora, as the three below. */
    app_id?: string | null;
    channel?: string | null;
    uid?: number | null;
    token?: string | null;
}
/** A stretch of a call: ringing, connecting, free, charged, paused or waived. */
export interface ReceiptLine {
    kind: string;
    from_ms: number;
    until_ms: number;
    pulses?: number;
    coins?: number;
    note?: string;
}
/** What was charged for, second by second. */
export interface Receipt {
    call_id: string;
    reason: EndReason;
    media: Media;
    price_coins: number;
    pulse_ms: number;
    created_ms: number;
    connected_ms: number;
    ended_ms: number;
    talk_ms: number;
    paused_ms: number;
    pulses: number;
    spent_coins: number;
    lines: ReceiptLine[];
    refunds?: {
        reason: string;
        coins: number;
    }[];
    paid_coins?: number | null;
    promo_coins?: number | null;
    earned_coins?: number | null;
    fee_coins?: number | null;
}
/** One line of a statement, in signed coins by bucket; a whole call is one line. */
export interface Entry {
    entry_id: string;
    ts_ms: number;
    kind: string;
    reason: string;
    paid: number;
    promo: number;
    earned: number;
    peer?: {
        id: string;
        name: string;
    } | null;
    relates_to?: string | null;
}
export interface Gift {
    gift_id: string;
    name: string;
    emoji: string;
    price_coins: number;
}
export interface Message {
    message_id: string;
    conversation: string;
    seq: number;
    from: string;
    to: string;
    kind: Open<"text">;
    body: string;
    ts_ms: number;
}
export interface Conversation {
    with: Person;
    last: Message;
    unread: number;
    read_seq: number;
    peer_read_seq: number;
}
export interface Snapshot {
    calls?: Call[];
    wallet?: Wallet;
    unread?: number;
}
/** The answer to session.sign_in. */
export interface Welcome {
    user: Person;
    tenant: string;
    roles: string[];
    stream: {
        epoch: string;
        offset: number;
    };
    recovered: boolean;
    heartbeat_ms: number;
    server_time_ms: number;
    token_expires_ms: number;
    snapshot?: Snapshot | null;
}
export type SignalKind = "offer" | "answer" | "candidate" | "bye";
type Ask<Data, Ok> = {
    data: Data;
    ok: Ok;
};
type Page = {
    cursor?: string;
    limit?: number;
};
type PushSettings = {
    categories: {
        category: string;
        muted: boolean;
        essential: string[];
    }[];
};
type OneCall = {
    call_id: string;
};
/** The answer to channel.join. `recovered`: the missed events follow; otherwise `history` holds the last ones. */
export interface Joined {
    channel: string;
    epoch: string;
    offset: number;
    recovered: boolean;
    count: number;
    history: {
        offset: number;
        event_id: string;
        ts_ms: number;
        data: unknown;
    }[];
}
/** Every operation: what it takes and what it gives. */
export interface Ops {
    "session.refresh": Ask<{
        token: string;
    }, {
        token_expires_ms: number;
    }>;
    "session.ping": Ask<{
        payload?: unknown;
    }, {
        server_time_ms: number;
        payload?: unknown;
    }>;
    "session.sign_out": Ask<{
        everywhere?: boolean;
    }, Empty>;
    "presence.set": Ask<{
        status: "online" | "away" | "dnd" | "offline";
    }, {
        state: PresenceState;
    }>;
    "presence.watch": Ask<{
        users: string[];
    }, {
        states: PresenceState[];
    }>;
    "presence.unwatch": Ask<{
        users: string[];
    }, Empty>;
    "hosts.update": Ask<Partial<Pick<HostCard, "name" | "headline" | "languages" | "tags" | "category" | "media" | "price_coins" | "pulse_ms">>, {
        host: HostCard;
    }>;
    "hosts.list": Ask<Page & {
        languages?: string[];
        tags?: string[];
        category?: string;
        media?: Media[];
        max_price_coins?: number;
    }, {
        hosts: HostCard[];
        cursor?: string | null;
    }>;
    "hosts.watch": Ask<Empty, {
        hosts: HostCard[];
        cursor?: string | null;
    }>;
    "hosts.unwatch": Ask<Empty, Empty>;
    "call.invite": Ask<{
        host: string;
        media: Media;
        price_coins?: number;
    }, {
        call: Call;
        media?: MediaCredentials | null;
    }>;
    "call.accept": Ask<OneCall, {
        call: Call;
        media: MediaCredentials;
    }>;
    "call.decline": Ask<OneCall, {
        call: Call;
    }>;
    "call.cancel": Ask<OneCall, {
        call: Call;
    }>;
    "call.hang_up": Ask<OneCall & {
        sent_ms_ago?: number;
    }, {
        call: Call;
        receipt?: Receipt | null;
    }>;
    "call.media": Ask<OneCall & {
        state: "connected" | "lost";
    }, {
        call: Call;
    }>;
    "call.signal": Ask<OneCall & {
        kind: SignalKind;
        payload: unknown;
    }, Empty>;
    "call.credentials": Ask<OneCall, {
        media: MediaCredentials;
    }>;
    "call.get": Ask<OneCall, {
        call: Call;
    }>;
    "call.active": Ask<Empty, {
        calls: Call[];
    }>;
    "call.history": Ask<Page, {
        calls: Call[];
        cursor?: string | null;
    }>;
    "call.receipt": Ask<OneCall, {
        receipt: Receipt;
    }>;
    "wallet.get": Ask<Empty, {
        wallet: Wallet;
    }>;
    "wallet.history": Ask<Page, {
        entries: Entry[];
        cursor?: string | null;
    }>;
    "gift.list": Ask<Empty, {
        gifts: Gift[];
    }>;
    "gift.send": Ask<{
        to: string;
        gift_id: string;
        call_id?: string;
    }, {
        wallet: Wallet;
        gift: Gift;
    }>;
    "chat.send": Ask<{
        to: string;
        kind?: Open<"text">;
        body: string;
    }, {
        message: Message;
    }>;
    "chat.history": Ask<{
        with: string;
        before?: number;
        after?: number;
        limit?: number;
    }, {
        messages: Message[];
        more: boolean;
    }>;
    "chat.sync": Ask<{
        after?: string;
        limit?: number;
    }, {
        messages: Message[];
        cursor: string;
        more: boolean;
    }>;
    "chat.read": Ask<{
        with: string;
        seq: number;
    }, Empty>;
    "chat.typing": Ask<{
        with: string;
    }, Empty>;
    "chat.conversations": Ask<Page, {
        conversations: Conversation[];
        sync_cursor: string;
        cursor?: string | null;
    }>;
    "channel.join": Ask<{
        channel: string;
        position?: {
            epoch: string;
            offset: number;
        };
        history?: number;
    }, Joined>;
    "channel.leave": Ask<{
        channel: string;
    }, Empty>;
    "channel.publish": Ask<{
        channel: string;
        data: unknown;
        ephemeral?: boolean;
        message_id?: string;
    }, {
        epoch?: string;
        offset?: number;
        event_id?: string;
    }>;
    "channel.presence": Ask<{
        channel: string;
        after?: string;
        limit?: number;
    }, {
        count: number;
        users: string[];
        more: boolean;
    }>;
    "device.register": Ask<{
        push_kind: Open<"fcm" | "fcm_fid">;
        push_address: string;
        platform?: string;
    }, Empty>;
    "device.unregister": Ask<Empty, Empty>;
    "profile.update": Ask<{
        name?: string;
        avatar_url?: string;
    }, {
        user: Person;
    }>;
    "push.mute": Ask<{
        category: Open<"calls" | "messages" | "money" | "reminders">;
        muted: boolean;
    }, PushSettings>;
    "push.settings": Ask<Empty, PushSettings>;
    "push.report": Ask<{
        push_id: string;
        state: "received" | "shown" | "acted";
    }, Empty>;
}
type CallEvent = {
    call: Call;
};
/** Every event: what its `data` holds. Names that begin with `client.` come from the client itself. */
export interface Events {
    "call.incoming": CallEvent;
    "call.ringing": CallEvent;
    "call.accepted": CallEvent;
    "call.answered_elsewhere": CallEvent;
    "call.connected": CallEvent;
    "call.charged": CallEvent & {
        wallet: Wallet;
        period: number;
        price_coins: number;
    };
    "call.low_balance": CallEvent & {
        ends_at_ms: number;
        threshold_ms: number;
    };
    "call.extended": CallEvent & {
        ends_at_ms: number;
    };
    "call.suspended": CallEvent;
    "call.resumed": CallEvent;
    "call.ended": CallEvent & {
        receipt?: Receipt | null;
    };
    "call.signal": {
        call_id: string;
        kind: Open<SignalKind>;
        payload: unknown;
        from_device: string;
        to_device: string;
    };
    "wallet.changed": {
        wallet: Wallet;
        reason: string;
    };
    "gift.received": {
        from: {
            id: string;
            name: string;
        };
        gift: Gift;
        call_id?: string | null;
        earned_coins: number;
        wallet: Wallet;
    };
    "chat.message": {
        message: Message;
    };
    "chat.read": {
        with: string;
        seq: number;
        by: string;
    };
    "chat.typing": {
        from: string;
    };
    "session.token_expiring": {
        expires_ms: number;
    };
    "presence.diff": {
        joins: PresenceState[];
        leaves: PresenceState[];
    };
    "hosts.diff": {
        joins: HostCard[];
        leaves: string[];
    };
    "channel.message": {
        channel: string;
        from?: string;
        data?: unknown;
        message_id?: string;
    };
    "channel.presence": {
        channel: string;
        joins: string[];
        leaves: string[];
        count: number;
        partial?: boolean;
    };
    "client.channel": Joined;
    "client.channel_lost": {
        channel: string;
        error: ErrorBody;
    };
    "client.state": {
        state: ClientState;
        reason: string;
    };
    "client.signed_in": Welcome;
    "client.snapshot": Snapshot;
}
export type ClientState = "idle" | "connecting" | "online" | "waiting" | "closed";
/** An event as it travels; an ephemeral one has neither epoch nor offset. */
export interface EventFrame {
    event: string;
    stream: string;
    data: unknown;
    event_id?: string;
    epoch?: string;
    offset?: number;
    v?: number;
    ts_ms?: number;
}
/** An event as handlers get it. */
export interface TalkmeterEvent<Data = unknown> extends EventFrame {
    data: Data;
}
/** Operations that change something: each travels with an idempotency key, and is repeated with the same one. */
export declare const MUTATIONS: ReadonlySet<string>;
/** Events that the server must know to have arrived: a ring's clock starts with its receipt. */
export declare const ACKED_EVENTS: ReadonlySet<string>;
export {};
