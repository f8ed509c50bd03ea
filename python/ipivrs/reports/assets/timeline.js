"use strict";
// The timeline of an ipivrs report: unpacks the columns that stand in the page and draws a window of them.
(async () => {
  const NOBODY = 2 ** 32 - 1;
  const MOST_ARROWS = 3000; // more at once are drawn as bars
  const MOST_BOXES = 6; // stretches for each pixel of a lane; more are drawn as shares
  const AXIS = 24;
  const UNITS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];
  const element = (id) => document.getElementById(id);
  const about = JSON.parse(element("about").textContent);
  const columns = await unpack(element("columns").textContent);
  const many = columns.after.length;
  const time = new Float64Array(many);
  let longest = 0;
  for (let at = 0, now = 0; at < many; at++) {
    now += columns.after[at];
    time[at] = now;
    longest = Math.max(longest, columns.took[at]);
  }
  const end = Math.max(about.end, 1);
  const lanes = about.vcpus.length;
  const begins = firstOfLanes(columns.lane);
  const high = lanes > 24 ? 16 : Math.min(Math.max(Math.floor(240 / lanes), 26), 64);
  const view = { from: 0, to: end, picked: -1 };
  const overview = element("overview"), canvas = element("lanes"), frame = element("frame");
  element("timeline").hidden = false;

  // ---- columns

  async function unpack(text) {
    const packed = atob(text.trim());
    const bytes = new Uint8Array(packed.length);
    for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const found = {};
    let begin = 0;
    for (const { name, bytes: wide, rows } of about.layout) {
      const values = wide === 1 ? new Uint8Array(rows) : wide === 4 ? new Uint32Array(rows) : new Float64Array(rows);
      for (let plane = 0, weight = 1; plane < wide; plane++, weight *= 256) {
        for (let row = 0; row < rows; row++) values[row] += planes[begin + row] * weight;
        begin += rows;
      }
      found[name] = values;
    }
    return found;
  }

  function firstOfLanes(lane) {
    const first = new Uint32Array(lanes + 1);
    for (const number of lane) first[number + 1]++;
    for (let at = 0; at < lanes; at++) first[at + 1] += first[at];
    return first;
  }

  // The first place from `low` to `high` whose value is `value` or more.
  function place(values, value, low = 0, top = values.length) {
    while (low < top) {
      const middle = (low + top) >> 1;
      if (values[middle] < value) low = middle + 1;
      else top = middle;
    }
    return low;
  }

  // ---- words

  const unitOf = (seconds) => UNITS.find(([size]) => seconds >= size) ?? UNITS[3];
  const shown = () => unitOf((view.to - view.from) / about.perSecond / 2);
  const plain = (number) => number.toLocaleString("en-US", { maximumFractionDigits: 3 });

  function moment(at) {
    const [size, unit] = shown();
    const words = `${plain(at / about.perSecond / size)} ${unit}`;
    return about.unit === "cycles" ? `cycle ${plain(at)} (${words})` : words;
  }

  function lasting(ticks) {
    const [size, unit] = unitOf(ticks / about.perSecond);
    const words = `${plain(ticks / about.perSecond / size)} ${unit}`;
    return about.unit === "cycles" ? `${plain(ticks)} cycles (${words})` : words;
  }

  function who(vcpu, otherwise) {
    return vcpu === NOBODY ? otherwise : about.vcpus[vcpu];
  }

  function sentence(at) {
    const fate = about.fates[columns.fate[at]];
    const vector = columns.vector[at].toString(16).toUpperCase().padStart(2, "0");
    const way = `${who(columns.sender[at], "the host")} to ${who(columns.target[at], "no vCPU that is known")}`;
    const took = columns.took[at]
      ? `delivered after ${lasting(columns.took[at] - 1)}`
      : about.deliveryKnown ? "with no delivery of its own" : "";
    return [`${vector}H ${way}`, fate, `sent at ${moment(time[at])}`, took].filter(Boolean).join(", ");
  }

  // ---- drawing

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    return {
      ink: colour("ink"), dim: colour("dim"), line: colour("line"), soft: colour("soft"), accent: colour("accent"),
      paper: colour("paper"), fates: about.fates.map(colour), states: about.states.map(colour),
    };
  }

  function prepare(surface, tall) {
    const wide = surface.clientWidth, ratio = window.devicePixelRatio || 1;
    surface.width = Math.round(wide * ratio);
    surface.height = Math.round(tall * ratio);
    const pen = surface.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = "12px system-ui, sans-serif";
    return { pen, wide, tall };
  }

  const gutter = () => Math.min(170, canvas.clientWidth / 4);
  const across = () => canvas.clientWidth - gutter() - 10;
  const x = (at) => gutter() + ((at - view.from) / (view.to - view.from)) * across();
  const timeAt = (pixel) => view.from + ((pixel - gutter()) / across()) * (view.to - view.from);
  const y = (lane) => AXIS + lane * high - frame.scrollTop + high / 2;

  function drawAxis({ pen, wide, tall }, colours) {
    const [size, unit] = shown();
    const span = (view.to - view.from) / about.perSecond / size;
    const rough = span / Math.max(across() / 110, 1), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999999);
    const first = Math.ceil(view.from / about.perSecond / size / step);
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, wide, AXIS);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let number = first; number * step <= view.to / about.perSecond / size * (1 + 1e-12); number++) {
      const at = x(number * step * size * about.perSecond);
      pen.fillStyle = colours.line;
      pen.fillRect(at, AXIS - 5, 1, tall);
      pen.fillStyle = colours.dim;
      pen.fillText(plain(number * step), at, AXIS / 2);
    }
    pen.textAlign = "left";
    pen.fillText(unit, 8, AXIS / 2);
  }

  // A surface of pixels: thousands of boxes cost no more than a few.
  function raster(sheet, colours) {
    const ratio = canvas.width / sheet.wide, wide = canvas.width, tall = canvas.height;
    const image = sheet.pen.createImageData(wide, tall), pixels = new Uint32Array(image.data.buffer);
    pixels.fill(number(colours.paper));
    const low = Math.round(gutter() * ratio), high = Math.round((gutter() + across()) * ratio);
    const box = (left, up, width, down, colour) => {
      const from = Math.max(Math.round(left * ratio), low), top = Math.max(Math.round(up * ratio), 0);
      const to = Math.min(Math.max(Math.round((left + width) * ratio), from + 1), high);
      const bottom = Math.min(Math.round((up + down) * ratio), tall);
      if (to - from === 1) for (let at = top * wide + from; at < bottom * wide; at += wide) pixels[at] = colour;
      else if (to > from) for (let row = top; row < bottom; row++) pixels.fill(colour, row * wide + from, row * wide + to);
    };
    return { box, show: () => sheet.pen.putImageData(image, 0, 0) };
  }

  // A colour of the style sheet, "#rgb" or "#rrggbb", as four bytes of a pixel.
  function number(colour) {
    const digits = colour.length === 4 ? [...colour.slice(1)].map((one) => one + one).join("") : colour.slice(1);
    const [red, green, blue] = [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2), 16));
    return new Uint32Array(new Uint8Array([red, green, blue, 255]).buffer)[0];
  }

  function drawStates({ box }, colours, lane) {
    const [low, top] = [begins[lane], begins[lane + 1]];
    let at = Math.max(place(columns.start, view.from, low, top) - 1, low);
    const last = place(columns.start, view.to, low, top);
    const up = y(lane) - high / 2 + 2, down = high - 4, left = gutter();
    if (last - at <= MOST_BOXES * across()) {
      for (; at < last; at++) {
        const begin = x(columns.start[at]), until = x(columns.start[at] + columns.lasts[at]);
        if (until > left) box(begin, up, until - Math.max(begin, left), down, colours.states[columns.state[at]]);
      }
      return;
    }
    const states = about.states.length, pixels = Math.ceil(across()), share = new Float32Array(pixels * states);
    for (; at < last; at++) {
      let begin = x(columns.start[at]) - left;
      const until = Math.min(begin + (columns.lasts[at] / (view.to - view.from)) * across(), pixels);
      for (begin = Math.max(begin, 0); begin < until;) {
        const pixel = Math.floor(begin), next = Math.min(pixel + 1, until);
        share[pixel * states + columns.state[at]] += next - begin;
        begin = next;
      }
    }
    for (let pixel = 0; pixel < pixels; pixel++) {
      for (let state = 0, below = 0; state < states; state++) {
        const part = share[pixel * states + state] * down;
        if (part > 0) box(left + pixel, up + below, 1, part, colours.states[state]);
        below += part;
      }
    }
  }

  function range() {
    const first = place(time, view.from), last = place(time, view.to * (1 + 1e-15) + 1e-9);
    return [first, Math.max(last, first)];
  }

  function drawBars({ box }, colours, first, last, top, bottom) {
    const pixels = Math.ceil(across()), fates = about.fates.length, rows = bottom - top;
    const counts = new Uint32Array(rows * fates * pixels);
    let most = 1;
    const sums = new Uint32Array(rows * pixels);
    const scale = across() / (view.to - view.from);
    for (let at = first; at < last; at++) {
      const lane = columns.sender[at];
      if (lane < top || lane >= bottom) continue;
      const pixel = Math.min(Math.floor((time[at] - view.from) * scale), pixels - 1);
      counts[((lane - top) * fates + columns.fate[at]) * pixels + pixel]++;
      most = Math.max(most, ++sums[(lane - top) * pixels + pixel]);
    }
    sums.fill(0);
    for (let fate = 0; fate < fates; fate++) {
      for (let row = 0; row < rows; row++) {
        const floor = y(row + top) + high / 2 - 2;
        for (let pixel = 0; pixel < pixels; pixel++) {
          const count = counts[(row * fates + fate) * pixels + pixel];
          if (!count) continue;
          const before = sums[row * pixels + pixel];
          sums[row * pixels + pixel] += count;
          const low = tallOf(before, most), tall = tallOf(before + count, most) - low;
          box(gutter() + pixel, floor - low - tall, 1, tall, colours.fates[fate]);
        }
      }
    }
  }

  // Bars are as tall as the root of what they count: one is to be seen beside a thousand.
  const tallOf = (count, most) => Math.sqrt(count / most) * (high - 6);

  function drawArrow(pen, at, colour, wide) {
    const begin = x(time[at]);
    const arrives = columns.took[at] ? x(time[at] + columns.took[at] - 1) : begin;
    const [sender, target] = [columns.sender[at], columns.target[at]];
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = wide;
    const from = y(sender === NOBODY ? target : sender), to = target === NOBODY ? from : y(target);
    pen.beginPath();
    pen.arc(begin, from, wide + 1, 0, 7);
    pen.fill();
    if (target === NOBODY || (sender === NOBODY && !columns.took[at])) return;
    pen.beginPath();
    if (from === to) {
      pen.moveTo(begin, from);
      pen.quadraticCurveTo((begin + arrives) / 2, from - high * 0.7, Math.max(arrives, begin + 6), to);
      pen.stroke();
      return;
    }
    const alone = about.deliveryKnown && !columns.took[at];
    pen.setLineDash(alone ? [2, 4] : []);
    pen.moveTo(begin, from);
    pen.lineTo(arrives, to);
    pen.stroke();
    pen.setLineDash([]);
    if (alone) return;
    const angle = Math.atan2(to - from, arrives - begin), size = 4 + wide;
    pen.beginPath();
    pen.moveTo(arrives, to);
    pen.lineTo(arrives - size * Math.cos(angle - 0.4), to - size * Math.sin(angle - 0.4));
    pen.lineTo(arrives - size * Math.cos(angle + 0.4), to - size * Math.sin(angle + 0.4));
    pen.fill();
  }

  function arrowsFrom(first) {
    // Those that were sent before the window and arrive in it.
    return Math.max(place(time, view.from - longest), first - MOST_ARROWS);
  }

  function draw() {
    element("tall").style.height = `${AXIS + lanes * high}px`;
    const sheet = prepare(canvas, Math.min(AXIS + lanes * high, 618));
    canvas.style.height = `${sheet.tall}px`;
    const { pen, tall } = sheet, colours = paint(), surface = raster(sheet, colours);
    const flat = { states: colours.states.map(number), fates: colours.fates.map(number) };
    const top = Math.floor(frame.scrollTop / high), bottom = Math.min(lanes, Math.ceil((frame.scrollTop + tall) / high));
    for (let lane = top; lane < bottom; lane++) {
      surface.box(gutter(), y(lane) - high / 2 + 2, across(), high - 4, number(colours.soft));
      drawStates(surface, flat, lane);
    }
    const [first, last] = range();
    if (last - first > MOST_ARROWS) drawBars(surface, flat, first, last, top, bottom);
    surface.show();
    pen.save();
    pen.beginPath();
    pen.rect(gutter(), 0, across() + 1, tall);
    pen.clip();
    if (last - first <= MOST_ARROWS) for (let at = arrowsFrom(first); at < last; at++) drawArrow(pen, at, colours.fates[columns.fate[at]], 1.2);
    if (view.picked >= 0) drawArrow(pen, view.picked, colours.ink, 2.5);
    pen.restore();
    drawAxis(sheet, colours);
    pen.textBaseline = "middle";
    for (let lane = top; lane < bottom; lane++) {
      pen.fillStyle = colours.ink;
      if (y(lane) > AXIS) pen.fillText(fitted(pen, about.vcpus[lane], gutter() - 14), 8, y(lane));
    }
    drawOverview(colours);
    const [size, unit] = shown();
    element("unit").textContent = unit;
    element("from").value = +(view.from / about.perSecond / size).toPrecision(9);
    element("to").value = +(view.to / about.perSecond / size).toPrecision(9);
    say(first, last);
  }

  function fitted(pen, words, room) {
    if (pen.measureText(words).width <= room) return words;
    let length = words.length;
    while (length > 1 && pen.measureText(words.slice(0, length) + "…").width > room) length--;
    return words.slice(0, length) + "…";
  }

  let heights = null;
  function drawOverview(colours) {
    const { pen, wide, tall } = prepare(overview, 44), pixels = Math.ceil(across());
    if (heights?.length !== pixels) {
      heights = new Uint32Array(pixels);
      for (let at = 0; at < many; at++) heights[Math.min(Math.floor((time[at] / end) * pixels), pixels - 1)]++;
    }
    let most = 1;
    for (const height of heights) most = Math.max(most, height);
    pen.fillStyle = colours.soft;
    pen.fillRect(gutter(), 4, pixels, tall - 8);
    pen.fillStyle = colours.dim;
    heights.forEach((height, pixel) => {
      const bar = Math.sqrt(height / most) * (tall - 8);
      pen.fillRect(gutter() + pixel, tall - 4 - bar, 1, bar);
    });
    const left = gutter() + (view.from / end) * across(), width = Math.max(((view.to - view.from) / end) * across(), 2);
    pen.strokeStyle = colours.accent;
    pen.lineWidth = 2;
    pen.strokeRect(left, 3, width, tall - 6);
    pen.fillText("all", 8, tall / 2 + 4);
  }

  function say(first, last) {
    const arrows = last - first > MOST_ARROWS ? ", too many for arrows" : "";
    element("said").textContent = view.picked >= 0
      ? sentence(view.picked)
      : `${plain(last - first)} interrupts in ${lasting(view.to - view.from)}${arrows}`;
  }

  // ---- moving

  let asked = false;
  function redraw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  }

  function show(from, to) {
    const span = Math.min(Math.max(to - from, Math.min(about.unit === "cycles" ? 50 : 20, end)), end);
    view.from = Math.min(Math.max(from, 0), end - span);
    view.to = view.from + span;
    redraw();
  }

  function zoom(factor, around = (view.from + view.to) / 2) {
    show(around - (around - view.from) * factor, around + (view.to - around) * factor);
  }

  const move = (share) => show(view.from + share * (view.to - view.from), view.to + share * (view.to - view.from));

  function busiest() {
    const some = Math.min(200, many);
    if (!some) return;
    let best = 0;
    for (let at = 0; at + some <= many; at++) {
      if (time[at + some - 1] - time[at] < time[best + some - 1] - time[best]) best = at;
    }
    const spare = (time[best + some - 1] - time[best]) * 0.05 + 1;
    show(time[best] - spare, time[best + some - 1] + spare);
  }

  function pick(at) {
    if (at < 0 || at >= many) return;
    view.picked = at;
    const span = view.to - view.from;
    if (time[at] < view.from || time[at] > view.to) show(time[at] - 0.2 * span, time[at] + 0.8 * span);
    const lane = columns.sender[at] === NOBODY ? columns.target[at] : columns.sender[at];
    if (lane !== NOBODY && (y(lane) < AXIS || y(lane) > canvas.clientHeight)) frame.scrollTop = lane * high - 100;
    redraw();
  }

  const does = {
    whole: () => show(0, end), busiest, in: () => zoom(0.5), out: () => zoom(2), left: () => move(-0.25),
    right: () => move(0.25),
    next: () => pick(view.picked >= 0 ? view.picked + 1 : place(time, view.from)),
    previous: () => pick((view.picked >= 0 ? view.picked : place(time, view.to)) - 1),
  };
  const keys = {
    ArrowLeft: does.left, ArrowRight: does.right, "+": does.in, "=": does.in, "-": does.out, Home: does.whole,
    n: does.next, p: does.previous, b: busiest,
    ArrowUp: () => { frame.scrollTop -= high; }, ArrowDown: () => { frame.scrollTop += high; },
    Escape: () => { view.picked = -1; redraw(); },
  };
  document.querySelectorAll("[data-does]").forEach((one) => one.addEventListener("click", does[one.dataset.does]));
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const id of ["from", "to"]) {
    element(id).addEventListener("change", () => {
      const [size] = shown();
      const [from, to] = ["from", "to"].map((one) => Number(element(one).value) * size * about.perSecond);
      if (Number.isFinite(from) && Number.isFinite(to) && to > from) show(from, to);
      else redraw();
    });
  }
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    if (!event.ctrlKey && Math.abs(event.deltaY) >= Math.abs(event.deltaX) && lanes * high > 600) return;
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(event.deltaX / across());
    else zoom(Math.exp(event.deltaY / 300), timeAt(event.offsetX));
  }, { passive: false });

  function drag(surface, begin, go, done = () => {}) {
    surface.addEventListener("pointerdown", (event) => {
      surface.setPointerCapture(event.pointerId);
      const started = begin(event);
      const moved = (next) => go(next, started);
      surface.addEventListener("pointermove", moved);
      const stop = (last) => {
        surface.removeEventListener("pointermove", moved);
        done(last, started);
      };
      surface.addEventListener("pointerup", stop, { once: true });
      surface.addEventListener("pointercancel", stop, { once: true });
    });
  }
  drag(canvas, (event) => ({ from: view.from, to: view.to, x: event.offsetX }), (event, was) => {
    const by = ((was.x - event.offsetX) / across()) * (was.to - was.from);
    show(was.from + by, was.to + by);
  }, (event, was) => {
    if (Math.abs(event.offsetX - was.x) > 3) return;
    view.picked = nearest(event.offsetX, event.offsetY);
    redraw();
  });
  const whole = (event) => Math.min(Math.max((event.offsetX - gutter()) / across(), 0), 1) * end;
  drag(overview, whole, (event, from) => show(Math.min(from, whole(event)), Math.max(from, whole(event))), (event, from) => {
    const span = view.to - view.from;
    if (Math.abs(whole(event) - from) < end / across()) show(from - span / 2, from + span / 2);
  });

  // The arrow at a place, if there is one.
  function nearest(across, down) {
    const [first, last] = range();
    let best = -1, least = 8;
    if (last - first > MOST_ARROWS) return best;
    for (let at = arrowsFrom(first); at < last; at++) {
      const begin = x(time[at]), until = columns.took[at] ? x(time[at] + columns.took[at] - 1) : begin;
      const sender = columns.sender[at] === NOBODY ? columns.target[at] : columns.sender[at];
      const from = y(sender), to = columns.target[at] === NOBODY ? from : y(columns.target[at]);
      const long = (until - begin) ** 2 + (to - from) ** 2;
      const part = long ? ((across - begin) * (until - begin) + (down - from) * (to - from)) / long : 0;
      const inside = Math.min(Math.max(part, 0), 1);
      const off = Math.hypot(across - begin - inside * (until - begin), down - from - inside * (to - from));
      if (off < least) [best, least] = [at, off];
    }
    return best;
  }

  frame.addEventListener("scroll", redraw);
  new ResizeObserver(redraw).observe(frame);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  for (const [event, paper] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(event, () => {
      document.documentElement.classList.toggle("paper", paper);
      draw();
    });
  }
  if (location.hash === "#busiest") busiest();
  draw();
  document.documentElement.dataset.ready = "yes";
})();
