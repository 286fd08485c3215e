// Asks again for what a page shows while something is still to happen, and changes what changed: what has the focus keeps it, what a
// person opened stays open. Without it a page shows what was true when it was loaded.
"use strict";

(() => {
  let tag = null;

  // Makes `now` what `next` is, in place.
  const become = (now, next) => {
    if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName || now.id !== next.id) {
      now.replaceWith(next.cloneNode(true));
      return;
    }
    if (now.nodeType !== Node.ELEMENT_NODE) {
      if (now.nodeValue !== next.nodeValue) now.nodeValue = next.nodeValue;
      return;
    }
    if (now.isEqualNode(next)) return;
    const theirs = (name) => now.nodeName === "DETAILS" && name === "open";
    for (const { name } of [...now.attributes]) {
      if (!next.hasAttribute(name) && !theirs(name)) now.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (now.getAttribute(name) !== value && !theirs(name)) now.setAttribute(name, value);
    }
    if (["INPUT", "TEXTAREA", "SELECT"].includes(now.nodeName)) return;
    const [old, fresh] = [[...now.childNodes], [...next.childNodes]];
    fresh.forEach((node, place) => {
      if (place < old.length) become(old[place], node);
      else now.append(node.cloneNode(true));
    });
    old.slice(fresh.length).forEach((node) => node.remove());
  };

  const look = async () => {
    const main = document.getElementById("main");
    const seconds = Number(main.dataset.live);
    if (!seconds) return;
    let wait = seconds;
    if (document.visibilityState === "visible") {
      try {
        const headers = { accept: "text/html", "x-fragment": "main" };
        if (tag) headers["if-none-match"] = tag;
        const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "error" });
        if (answer.status === 401) {
          location.reload();
          return;
        }
        if (answer.status === 200) {
          tag = answer.headers.get("etag");
          const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
          if (next) become(main, next);
        } else if (answer.status !== 304) {
          wait = 10;
        }
      } catch {
        // It cannot be reached now.
        wait = 5;
      }
    }
    setTimeout(look, wait * 1000);
  };

  document.addEventListener("DOMContentLoaded", () => {
    const seconds = Number(document.getElementById("main").dataset.live);
    if (seconds) setTimeout(look, seconds * 1000);
  });
})();
