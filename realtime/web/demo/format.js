// Numbers, times, reasons and errors in words.

/** "1 coin", "1,200 coins". */
export const coins = (count) => `${count.toLocaleString()} ${count === 1 ? "coin" : "coins"}`;

/** Length as a clock: 0:07, 12:30, 1:02:03. Rounds down, never below zero. */
export function clock(ms) {
  const total = Math.max(0, Math.floor(ms / 1000));
  const [hours, minutes, seconds] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
}

/** "second", "2 seconds", "minute". */
export function pulse(ms) {
  const [count, unit] = ms % 60_000 === 0 ? [ms / 60_000, "minute"] : [ms / 1000, "second"];
  return count === 1 ? unit : `${count} ${unit}s`;
}

/** "2 coins every 2 seconds", "5 coins a minute". */
export function price(priceCoins, pulseMs) {
  const length = pulse(pulseMs);
  return `${coins(priceCoins)} ${/^\d/.test(length) ? "every" : "a"} ${length}`;
}

/** The same where there is little room: "2 coins / 2 s", "30 coins / min". */
export function shortPrice(priceCoins, pulseMs) {
  const length = pulse(pulseMs)
    .replace(/ ?seconds?$/, " s")
    .replace(/ ?minutes?$/, " min")
    .trim();
  return `${coins(priceCoins)} / ${length}`;
}

/** Time of day, and the day when it is not today. */
export function when(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium" });
}

/** Why a call ended: [title, sentence], as the one who reads it sees it. */
export function ending({ reason, role, peer }) {
  const caller = role === "caller";
  const name = peer.name || "The other one";
  const endings = {
    declined: caller ? ["Declined", `${name} cannot talk right now.`] : ["Declined", `You declined ${name}’s call.`],
    cancelled: caller
      ? ["Cancelled", "You hung up before there was an answer."]
      : ["Missed call", `${name} hung up before you answered.`],
    missed: caller ? ["No answer", `${name} did not answer.`] : ["Missed call", `You did not answer ${name} in time.`],
    busy: ["Busy", `${name} is in another call.`],
    unreachable: caller
      ? ["Not reached", `No device of ${name} could be reached.`]
      : ["Missed call", `${name} tried to reach you.`],
    hung_up_by_caller: ["Call ended", caller ? "You hung up." : `${name} hung up.`],
    hung_up_by_host: ["Call ended", caller ? `${name} hung up.` : "You hung up."],
    insufficient_funds: caller
      ? ["Not enough coins", "Your coins do not pay the first moment of this call."]
      : ["Not enough coins", `${name}’s coins did not pay the first moment.`],
    exhausted: caller
      ? ["Your coins are used up", "The call ended at the second that was paid for."]
      : ["The coins are used up", `${name} had no coins left, so the call ended at the paid second.`],
    lost: ["Connection lost", "The call ended when one of you was last heard. Silence was not charged."],
    failed: ["It did not connect", "Your browsers found no way to each other. Nothing was charged."],
  };
  return endings[reason] ?? ["Call ended", ""];
}

/** What to tell a person about a refusal of the server; falls back to the server's own sentence. */
export function trouble(error) {
  const known = {
    insufficient_funds: "You do not have enough coins for that.",
    busy: "They are in another call. Try again in a moment.",
    host_unavailable: "This host does not take calls right now.",
    self_call: "That is you. Come in under another name in the other window.",
    call_over: "The call is over.",
    invalid_transition: "The call has moved on meanwhile.",
    rate_limited: "Too fast. Wait a moment.",
    timeout: "The server did not answer. Try again.",
    closed: "You are signed out.",
    token_expired: "Your session has ended. Sign in again.",
    forbidden: "You may not do that.",
    not_found: "That is not there any more.",
  };
  return known[error.code] ?? error.message ?? String(error);
}
