// Small helpers for the page: find an element, make one. Text is always set as text, so names cannot be markup.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/**
 * Make an element: `h("button.button", { type: "button", onclick }, "Text", child)`.
 * Keys that begin with "on" are listeners; "data" and "aria" hold attributes of that prefix; others are attributes.
 */
export function h(selector, options = {}, ...children) {
  const [name, ...classes] = selector.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "aria")
      for (const [what, said] of Object.entries(value)) element.setAttribute(`aria-${what}`, said);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Make an SVG element. */
export function s(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Show or hide. */
export function show(element, shown) {
  element.hidden = !shown;
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter(Boolean));
}
