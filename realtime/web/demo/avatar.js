// A portrait for everybody: drawn from the user's id, the same on every screen, unless the profile has a picture.
import { h, s } from "./dom.js";

const BACKDROPS = [
  ["#f6c177", "#ea8f5a"],
  ["#9fd8c4", "#4f9f8a"],
  ["#b7c4f4", "#6f7fd0"],
  ["#f2b5c4", "#cf6f8d"],
  ["#cfe0a0", "#88a94e"],
  ["#f4d58a", "#d9a23c"],
  ["#a9d6ee", "#5497bd"],
  ["#dcc3ee", "#9a74bf"],
];
const SKINS = ["#f3d2b3", "#e5b48c", "#c98d62", "#a86d45", "#7d4c2f", "#5d3823"];
const HAIRS = ["#2b2320", "#4a2f20", "#7a4b2a", "#b5793c", "#1d1d24", "#6b6b72", "#8c3b2a"];
const SHIRTS = ["#21443a", "#35507f", "#7b3650", "#d8613c", "#3d3d46", "#f1ead9", "#4e7f52"];
const HAIR_SHAPES = [
  "M27 46c-2-18 8-28 23-28s25 10 23 28c-4-11-9-15-13-16-7 4-20 4-27 1-3 3-5 8-6 15z",
  "M25 62c-4-26 4-45 25-45s29 19 25 45c-1 5-6 6-6 0 0-15-2-25-7-29-8 4-18 3-25 0-4 4-6 14-6 29 0 6-5 5-6 0z",
  "M28 42c-1-15 9-25 22-25s23 10 22 25c-3-7-6-10-9-11H37c-3 1-6 4-9 11z",
  "M26 44c-5-5-3-12 2-14 0-7 7-11 12-9 4-6 14-6 18-1 7-1 12 4 11 10 6 2 7 9 3 14-2-7-5-11-9-12-8 3-20 3-28 0-4 1-7 5-9 12z",
];

/** A small generator of numbers from a text (FNV-1a, then xorshift): the same text gives the same person. */
function dice(text) {
  let state = 2166136261;
  for (const char of text) state = Math.imul(state ^ char.codePointAt(0), 16777619);
  return (sides) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % sides;
  };
}

let drawn = 0; // gradients need ids of their own

/** An element with the picture of a person `{id, name, avatar_url}`; it fills its box. */
export function avatar({ id, name, avatar_url: url }) {
  const pictured = url && (url.startsWith("/") || url.startsWith(location.origin));
  if (pictured) return h("img.avatar", { src: url, alt: "" });
  const roll = dice(id || name || "?");
  const pick = (list) => list[roll(list.length)];
  const [light, dark] = pick(BACKDROPS);
  const skin = pick(SKINS);
  const hair = pick(HAIRS);
  const gradient = `avatar-${++drawn}`;
  const parts = [
    s(
      "defs",
      {},
      s(
        "linearGradient",
        { id: gradient, x1: 0, y1: 0, x2: 1, y2: 1 },
        s("stop", { offset: 0, "stop-color": light }),
        s("stop", { offset: 1, "stop-color": dark }),
      ),
    ),
    s("rect", { width: 100, height: 100, fill: `url(#${gradient})` }),
    s("path", { d: "M14 104c0-24 15-34 36-34s36 10 36 34z", fill: pick(SHIRTS) }),
    s("path", { d: "M41 60h18v14c0 6-18 6-18 0z", fill: skin }),
    s("path", { d: "M41 66c5 5 13 5 18 0v4c-5 5-13 5-18 0z", fill: "#000", opacity: 0.12 }),
    s("ellipse", { cx: 50, cy: 46, rx: 20, ry: 23, fill: skin }),
    s("path", { d: pick(HAIR_SHAPES), fill: hair }),
    s("circle", { cx: 42.5, cy: 47, r: 2.1, fill: "#2a211d" }),
    s("circle", { cx: 57.5, cy: 47, r: 2.1, fill: "#2a211d" }),
    s("path", {
      d: "M43 56.500q7 6 14 0",
      fill: "none",
      stroke: "#2a211d",
      "stroke-width": 2,
      "stroke-linecap": "round",
    }),
  ];
  if (roll(3) === 0) {
    const frame = { fill: "none", stroke: "#2a211d", "stroke-width": 1.8 };
    parts.push(
      s("circle", { cx: 42, cy: 47, r: 6.5, ...frame }),
      s("circle", { cx: 58, cy: 47, r: 6.5, ...frame }),
      s("path", { d: "M48.500 47h3", ...frame }),
    );
  }
  const svg = s("svg", { viewBox: "0 0 100 100", class: "avatar", "aria-hidden": "true" }, ...parts);
  svg.style.display = "block";
  return svg;
}
