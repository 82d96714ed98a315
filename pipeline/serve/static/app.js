"use strict";
// The address bar says all that is shown: q or like, the filters, and v, the video that is open.

const $ = (id) => document.getElementById(id);
const FIELDS = ["q", "folder", "shortest", "longest"];
const still = matchMedia("(prefers-reduced-motion: reduce)");
let asked = 0;
let opener = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function get(path) {
  const answer = await fetch(path);
  const said = await answer.json().catch(() => ({ detail: `the server says ${answer.status}` }));
  if (!answer.ok) throw new Error(typeof said.detail === "string" ? said.detail : "that cannot be searched for");
  return said;
}

function at(params) {
  const text = params.toString();
  return text ? `?${text}` : location.pathname;
}

function go(params) {
  history.pushState(null, "", at(params));
  return show();
}

function time(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function span(video) {
  if (video.start !== null || video.end !== null) {
    return `${time(video.start ?? 0)} to ${video.end === null ? "the end" : time(video.end)}`;
  }
  return video.seconds === null ? "" : `${video.seconds.toFixed(1)} s`;
}

function player(video, properties) {
  // The fragment has no end, at which the browser would stop for good: a part of a film is repeated by us.
  const part = video.start === null ? "" : `#t=${video.start}`;
  const element = make("video", { src: `api/videos/${video.key}/file${part}`, muted: true, playsInline: true, ...properties });
  const again = () => {
    element.currentTime = video.start ?? 0;
    element.play().catch(() => {});  // who looks has gone
  };
  element.addEventListener("ended", again);
  element.addEventListener("timeupdate", () => {
    if (video.end !== null && element.currentTime >= video.end && !element.paused) again();
  });
  return element;
}

function poster(video) {
  const none = () => make("span", { className: "none", textContent: "no picture" });
  if (!video.poster) return none();
  const picture = make("img", { src: `api/videos/${video.key}/poster`, alt: "", loading: "lazy" });
  picture.addEventListener("error", () => picture.replaceWith(none()));
  return picture;
}

function card(hit, range) {
  const frame = make("span", { className: "still" }, poster(hit));
  const meter = make("meter", { min: range[0], max: range[1], value: hit.score });
  meter.setAttribute("aria-hidden", "true");
  const about = make("span", { className: "about" }, make("bdi", { textContent: hit.video_id }), meter,
    make("small", { textContent: [`score ${hit.score.toFixed(2)}`, span(hit)].filter(Boolean).join(" · ") }));
  const button = make("button", { className: "hit", type: "button" }, frame, about);
  button.dataset.key = hit.key;
  let moving = null;
  const start = () => {
    if (moving || still.matches || !hit.playable) return;
    moving = player(hit, { autoplay: true });
    moving.addEventListener("error", () => moving && moving.remove());
    frame.append(moving);
  };
  const stop = () => {
    if (!moving) return;
    moving.removeAttribute("src");
    moving.load();
    moving.remove();
    moving = null;
  };
  for (const event of ["pointerenter", "focus"]) button.addEventListener(event, start);
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, stop);
  button.addEventListener("click", () => {
    stop();
    const params = new URLSearchParams(location.search);
    params.set("v", hit.key);
    go(params);
  });
  return make("li", {}, button);
}

async function search(params) {
  const number = ++asked;
  const wanted = new URLSearchParams();
  for (const name of [...FIELDS, "like"]) if (params.get(name)?.trim()) wanted.set(name, params.get(name).trim());
  if (wanted.has("like")) wanted.delete("q");
  if (!wanted.has("q") && !wanted.has("like")) {
    $("hits").replaceChildren();
    $("status").textContent = "";
    return;
  }
  $("status").textContent = "Searching…";
  try {
    const [found, like] = await Promise.all([
      get(`api/search?${wanted}`), wanted.has("like") ? get(`api/videos/${encodeURIComponent(wanted.get("like"))}`) : null]);
    if (number !== asked) return;
    const scores = found.hits.map((hit) => hit.score);
    const range = [Math.min(0, ...scores), Math.max(1e-9, ...scores)];
    $("hits").replaceChildren(...found.hits.map((hit) => card(hit, range)));
    const what = like ? ` like ${like.video_id}` : "";
    $("status").textContent = found.hits.length
      ? `The best ${found.hits.length} of ${found.videos} videos${what}` : `None of ${found.videos} videos fits the filters`;
  } catch (error) {
    if (number !== asked) return;
    $("hits").replaceChildren();
    $("status").textContent = `No answer: ${error.message}`;
  }
}

async function open(key) {
  const dialog = $("one");
  if (!key) {
    if (dialog.open) dialog.close();
    return;
  }
  let video;
  try {
    video = await get(`api/videos/${encodeURIComponent(key)}`);
  } catch (error) {
    $("status").textContent = `No answer: ${error.message}`;
    return;
  }
  if (new URLSearchParams(location.search).get("v") !== key) return;
  $("name").firstElementChild.textContent = video.video_id;
  $("player").replaceChildren(video.playable ? player(video, { controls: true, autoplay: !still.matches }) : poster(video));
  $("facts").textContent = [span(video), video.playable ? "" : "its file is not on this machine"].filter(Boolean).join(" · ");
  $("like").href = `?like=${video.key}`;
  $("captions").replaceChildren(...video.captions.map((caption) => make("li", {},
    make("bdi", { textContent: caption.text }),
    caption.rank === null ? "" : ` (this video has rank ${caption.rank} for it)`)));
  if (!dialog.open) {
    opener = document.activeElement;
    dialog.showModal();
  }
}

let shown = null;

function offer(folders) {
  const there = new Set(Array.from($("folder").options, (option) => option.value));
  const more = folders.filter((folder) => folder && !there.has(folder));
  $("folder").append(...more.map((folder) => make("option", { value: folder, textContent: folder })));
}

async function show() {
  const params = new URLSearchParams(location.search);
  offer([params.get("folder")]);
  for (const name of FIELDS) $(name).value = params.get(name) ?? "";
  $("filters").open ||= ["folder", "shortest", "longest"].some((name) => params.get(name));
  const key = params.get("v");
  params.delete("v");
  document.title = params.get("q") ? `${params.get("q")}: videos` : "Search videos";
  const same = params.toString() === shown;
  shown = params.toString();
  await Promise.all([same ? null : search(params), open(key)]);
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const params = new URLSearchParams();
  for (const name of FIELDS) if ($(name).value.trim()) params.set(name, $(name).value.trim());
  const like = new URLSearchParams(location.search).get("like");
  if (like && !params.has("q")) params.set("like", like);
  go(params);
});
$("filters").addEventListener("change", () => $("search").requestSubmit());
$("like").addEventListener("click", (event) => {
  event.preventDefault();
  go(new URLSearchParams(new URL($("like").href).search));
});
$("one").addEventListener("close", () => {
  $("player").replaceChildren();
  const params = new URLSearchParams(location.search);
  if (params.has("v")) {
    params.delete("v");
    history.pushState(null, "", at(params));
  }
  if (opener && opener.isConnected) opener.focus();
});
addEventListener("popstate", show);
addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "/" && !typing && !$("one").open) {
    event.preventDefault();
    $("q").select();
    return;
  }
  const hits = [...document.querySelectorAll(".hit")];
  const now = hits.indexOf(document.activeElement);
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step && !$("one").open && hits.length && (now >= 0 || (event.key === "ArrowDown" && event.target.id === "q"))) {
    event.preventDefault();
    hits[Math.min(hits.length - 1, Math.max(0, now + step))].focus();
  }
});

show();  // at once: what is typed in the meantime stays
(async () => {
  try {
    const corpus = await get("api/corpus");
    offer(corpus.folders);
    $("q").placeholder = `What is to be seen in ${corpus.name}?`;
  } catch (error) {
    $("status").textContent = `No answer: ${error.message}`;
  }
})();
