// What the server takes, answers and tells, made from its schemas by `python -m tests.client.wire_types`.
// Values of strings are not compared: the client leaves them open, since more may come.

export interface Takes {
  "call.accept": { call_id: string };
  "call.active": Record<string, never>;
  "call.cancel": { call_id: string };
  "call.credentials": { call_id: string };
  "call.decline": { call_id: string };
  "call.get": { call_id: string };
  "call.hang_up": { call_id: string; sent_ms_ago?: number };
  "call.history": { cursor?: string | null; limit?: number };
  "call.invite": { host: string; media: string; price_coins?: number | null };
  "call.media": { call_id: string; state: string };
  "call.receipt": { call_id: string };
  "call.signal": { call_id: string; kind: string; payload: unknown };
  "channel.join": { channel: string; position?: { epoch: string; offset: number } | null; history?: number };
  "channel.leave": { channel: string };
  "channel.presence": { channel: string; after?: string | null; limit?: number };
  "channel.publish": { channel: string; data: unknown; ephemeral?: boolean; message_id?: string | null };
  "chat.conversations": { cursor?: string | null; limit?: number };
  "chat.history": { with: string; before?: number | null; after?: number | null; limit?: number };
  "chat.read": { with: string; seq: number };
  "chat.send": { to: string; body: string; kind?: string };
  "chat.sync": { after?: string | null; limit?: number };
  "chat.typing": { with: string };
  "device.register": { push_kind: string; push_address: string; platform?: string };
  "device.unregister": Record<string, never>;
  "gift.list": Record<string, never>;
  "gift.send": { to: string; gift_id: string; call_id?: string | null };
  "hosts.list": { languages?: Array<string>; tags?: Array<string>; category?: string; media?: Array<string>; max_price_coins?: number | null; limit?: number; cursor?: string | null };
  "hosts.unwatch": Record<string, never>;
  "hosts.update": { name?: string; headline?: string; languages?: Array<string>; tags?: Array<string>; category?: string; media?: Array<string>; price_coins?: number; pulse_ms?: number };
  "hosts.watch": Record<string, never>;
  "presence.set": { status: string };
  "presence.unwatch": { users: Array<string> };
  "presence.watch": { users: Array<string> };
  "profile.update": { name?: string; avatar_url?: string };
  "push.mute": { category: string; muted: boolean };
  "push.report": { push_id: string; state: string };
  "push.settings": Record<string, never>;
  "session.ping": { payload?: unknown };
  "session.refresh": { token: string };
  "session.sign_in": { device_id: string; token?: string | null; app_version?: string; platform?: string; streams?: Array<{ stream: string; epoch: string; offset: number }> };
  "session.sign_out": { everywhere?: boolean };
  "wallet.get": Record<string, never>;
  "wallet.history": { cursor?: string | null; limit?: number };
}

export interface Gives {
  "call.accept": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }; media: { provider: string; expires_ms: number; ice_servers?: Array<{ urls: Array<string>; username?: string; credential?: string }> | null; app_id?: string | null; channel?: string | null; uid?: number | null; token?: string | null } };
  "call.active": { calls: Array<{ call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }> };
  "call.cancel": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.credentials": { media: { provider: string; expires_ms: number; ice_servers?: Array<{ urls: Array<string>; username?: string; credential?: string }> | null; app_id?: string | null; channel?: string | null; uid?: number | null; token?: string | null } };
  "call.decline": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.get": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.hang_up": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }; receipt?: { call_id: string; reason: string; media: string; price_coins: number; pulse_ms: number; created_ms: number; connected_ms: number; ended_ms: number; talk_ms: number; paused_ms: number; pulses: number; spent_coins: number; lines: Array<{ kind: string; from_ms: number; until_ms: number; pulses?: number; coins?: number; note?: string }>; refunds?: Array<{ reason: string; coins: number }>; paid_coins?: number | null; promo_coins?: number | null; earned_coins?: number | null; fee_coins?: number | null } | null };
  "call.history": { calls: Array<{ call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }>; cursor?: string | null };
  "call.invite": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }; media?: { provider: string; expires_ms: number; ice_servers?: Array<{ urls: Array<string>; username?: string; credential?: string }> | null; app_id?: string | null; channel?: string | null; uid?: number | null; token?: string | null } | null };
  "call.media": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.receipt": { receipt: { call_id: string; reason: string; media: string; price_coins: number; pulse_ms: number; created_ms: number; connected_ms: number; ended_ms: number; talk_ms: number; paused_ms: number; pulses: number; spent_coins: number; lines: Array<{ kind: string; from_ms: number; until_ms: number; pulses?: number; coins?: number; note?: string }>; refunds?: Array<{ reason: string; coins: number }>; paid_coins?: number | null; promo_coins?: number | null; earned_coins?: number | null; fee_coins?: number | null } };
  "call.signal": Record<string, never>;
  "channel.join": { channel: string; epoch: string; offset: number; recovered: boolean; count: number; history: Array<{ offset: number; event_id: string; ts_ms: number; data: unknown }> };
  "channel.leave": Record<string, never>;
  "channel.presence": { count: number; users: Array<string>; more: boolean };
  "channel.publish": { epoch?: string; offset?: number; event_id?: string };
  "chat.conversations": { conversations: Array<{ with: { id: string; name: string; avatar_url: string }; last: { message_id: string; conversation: string; seq: number; from: string; to: string; kind: string; body: string; ts_ms: number }; unread: number; read_seq: number; peer_read_seq: number }>; sync_cursor: string; cursor?: string | null };
  "chat.history": { messages: Array<{ message_id: string; conversation: string; seq: number; from: string; to: string; kind: string; body: string; ts_ms: number }>; more: boolean };
  "chat.read": Record<string, never>;
  "chat.send": { message: { message_id: string; conversation: string; seq: number; from: string; to: string; kind: string; body: string; ts_ms: number } };
  "chat.sync": { messages: Array<{ message_id: string; conversation: string; seq: number; from: string; to: string; kind: string; body: string; ts_ms: number }>; cursor: string; more: boolean };
  "chat.typing": Record<string, never>;
  "device.register": Record<string, never>;
  "device.unregister": Record<string, never>;
  "gift.list": { gifts: Array<{ gift_id: string; name: string; emoji: string; price_coins: number }> };
  "gift.send": { wallet: { paid: number; promo: number; coins: number; earned: number; v: number }; gift: { gift_id: string; name: string; emoji: string; price_coins: number } };
  "hosts.list": { hosts: Array<{ user: string; name: string; avatar_url: string; headline: string; languages: Array<string>; tags: Array<string>; category: string; media: Array<string>; price_coins: number; pulse_ms: number; rating: number | null; status: string; bookable: boolean }>; cursor?: string | null };
  "hosts.unwatch": Record<string, never>;
  "hosts.update": { host: { user: string; name: string; avatar_url: string; headline: string; languages: Array<string>; tags: Array<string>; category: string; media: Array<string>; price_coins: number; pulse_ms: number; rating: number | null; status: string; bookable: boolean } };
  "hosts.watch": { hosts: Array<{ user: string; name: string; avatar_url: string; headline: string; languages: Array<string>; tags: Array<string>; category: string; media: Array<string>; price_coins: number; pulse_ms: number; rating: number | null; status: string; bookable: boolean }>; cursor?: string | null };
  "presence.set": { state: { user: string; status: string; bookable: boolean; last_seen_ms: number } };
  "presence.unwatch": Record<string, never>;
  "presence.watch": { states: Array<{ user: string; status: string; bookable: boolean; last_seen_ms: number }> };
  "profile.update": { user: { id: string; name: string; avatar_url: string } };
  "push.mute": { categories: Array<{ category: string; muted: boolean; essential: Array<string> }> };
  "push.report": Record<string, never>;
  "push.settings": { categories: Array<{ category: string; muted: boolean; essential: Array<string> }> };
  "session.ping": { server_time_ms: number; payload?: unknown };
  "session.refresh": { token_expires_ms: number };
  "session.sign_in": { user: { id: string; name: string; avatar_url: string }; tenant: string; roles: Array<string>; stream: { epoch: string; offset: number }; recovered: boolean; heartbeat_ms: number; server_time_ms: number; token_expires_ms: number; snapshot?: Record<string, unknown> | null };
  "session.sign_out": Record<string, never>;
  "wallet.get": { wallet: { paid: number; promo: number; coins: number; earned: number; v: number } };
  "wallet.history": { entries: Array<{ entry_id: string; ts_ms: number; kind: string; reason: string; paid: number; promo: number; earned: number; peer?: { id: string; name: string } | null; relates_to?: string | null }>; cursor?: string | null };
}

export interface Tells {
  "call.accepted": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.answered_elsewhere": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.charged": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }; wallet: { paid: number; promo: number; coins: number; earned: number; v: number }; period: number; price_coins: number };
  "call.connected": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.ended": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }; receipt?: { call_id: string; reason: string; media: string; price_coins: number; pulse_ms: number; created_ms: number; connected_ms: number; ended_ms: number; talk_ms: number; paused_ms: number; pulses: number; spent_coins: number; lines: Array<{ kind: string; from_ms: number; until_ms: number; pulses?: number; coins?: number; note?: string }>; refunds?: Array<{ reason: string; coins: number }>; paid_coins?: number | null; promo_coins?: number | null; earned_coins?: number | null; fee_coins?: number | null } | null };
  "call.extended": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }; ends_at_ms: number };
  "call.incoming": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.low_balance": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null }; ends_at_ms: number; threshold_ms: number };
  "call.resumed": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.ringing": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "call.signal": { call_id: string; kind: string; payload: unknown; from_device: string; to_device: string };
  "call.suspended": { call: { call_id: string; v: number; state: string; media: string; role: string; peer: { id: string; name: string; avatar_url: string }; price_coins: number; pulse_ms: number; created_ms: number; ring_deadline_ms: number; spent_coins: number; reason?: string | null; ringing_ms?: number | null; accepted_ms?: number | null; connected_ms?: number | null; ended_ms?: number | null; funded_until_ms?: number | null; paused?: boolean; earned_coins?: number | null; accepted_device?: string | null } };
  "channel.message": { channel: string; from?: string; data?: unknown; message_id?: string };
  "channel.presence": { channel: string; joins: Array<string>; leaves: Array<string>; count: number; partial: boolean };
  "chat.message": { message: { message_id: string; conversation: string; seq: number; from: string; to: string; kind: string; body: string; ts_ms: number } };
  "chat.read": { with: string; seq: number; by: string };
  "chat.typing": { from: string };
  "gift.received": { from: { id: string; name: string }; gift: { gift_id: string; name: string; emoji: string; price_coins: number }; earned_coins: number; wallet: { paid: number; promo: number; coins: number; earned: number; v: number }; call_id?: string | null };
  "hosts.diff": { joins: Array<{ user: string; name: string; avatar_url: string; headline: string; languages: Array<string>; tags: Array<string>; category: string; media: Array<string>; price_coins: number; pulse_ms: number; rating: number | null; status: string; bookable: boolean }>; leaves: Array<string> };
  "presence.diff": { joins: Array<{ user: string; status: string; bookable: boolean; last_seen_ms: number }>; leaves: Array<{ user: string; status: string; bookable: boolean; last_seen_ms: number }> };
  "session.token_expiring": { expires_ms: number };
  "wallet.changed": { wallet: { paid: number; promo: number; coins: number; earned: number; v: number }; reason: string };
}
