// A line chart on a canvas: some thousand points, one or two lines, a cross-hair that says what is under it.
import { el, number } from "/studio/common.js";
import { t } from "/studio/words.js";

const LEFT = 52;
const BOTTOM = 22;
const TOP = 8;
const RIGHT = 10;

export function compact(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e7)) return value.toExponential(2);
  if (size >= 10_000) return `${number(value / 1000, 1)}k`;
  return String(Number(value.toPrecision(4)));
}

// Round numbers between two bounds.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

// An exponential mean, corrected for its start: share of the past in each value.
function smoothed(points, share) {
  let mean = 0;
  let weight = 0;
  return points.map(([step, value]) => {
    mean = share * mean + (1 - share) * value;
    weight = share * weight + (1 - share);
    return [step, mean / weight];
  });
}

export class Chart {
  constructor(name) {
    this.name = name;
    this.lines = []; // { label, points: [[step, value]], main }
    this.options = { smooth: 0, logarithmic: false };
    this.canvas = el("canvas", { role: "img" });
    this.reading = el("span", { class: "reading" });
    this.legend = el("span", { class: "legend" });
    this.node = el("figure", { class: "chart" }, el("figcaption", {}, el("strong", {}, name), this.legend, this.reading), this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.hover(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.hover(null));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  set(lines, options) {
    this.lines = lines;
    this.options = options;
    const main = lines[0].points;
    const [step, value] = main.at(-1) ?? [0, NaN];
    this.canvas.setAttribute("aria-label", t("chart", { name: this.name, n: main.length, value: compact(value), step }));
    this.legend.replaceChildren(...(lines.length > 1 ? lines.map((line, place) => el("span", { class: `line-${place}` }, t(line.label))) : []));
    if (this.at === undefined || this.at === null) this.reading.textContent = compact(value);
    this.draw();
  }

  draw() {
    const { canvas, options } = this;
    const wide = canvas.clientWidth;
    const high = canvas.clientHeight;
    if (!wide || !this.lines.length) return;
    const ratio = devicePixelRatio || 1;
    canvas.width = wide * ratio;
    canvas.height = high * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const ink = (name) => style.getPropertyValue(name).trim();
    const log = options.logarithmic && this.lines.every((line) => line.points.every(([, value]) => value > 0));
    const scale = (value) => (log ? Math.log10(value) : value);
    const all = this.lines.flatMap((line) => line.points);
    const values = all.map(([, value]) => scale(value)).sort((one, other) => one - other);
    // the few first values are often far above all others: they may leave the picture
    const cut = log || values.length < 50 ? 0 : Math.floor(values.length * 0.01);
    let low = values[0];
    let high_ = values[values.length - 1 - cut];
    if (!(high_ > low)) { low -= Math.abs(low) * 0.1 || 0.5; high_ += Math.abs(high_) * 0.1 || 0.5; }
    const pad = (high_ - low) * 0.06;
    [low, high_] = [low - pad, high_ + pad];
    const last = Math.max(...all.map(([step]) => step), 1);
    const first = Math.min(...all.map(([step]) => step), last - 1);
    this.x = (step) => LEFT + ((step - first) / (last - first)) * (wide - LEFT - RIGHT);
    const y = (value) => TOP + (1 - (scale(value) - low) / (high_ - low)) * (high - TOP - BOTTOM);
    const { x } = this;
    const stroke = (points, colour, width, alpha) => {
      pen.strokeStyle = pen.fillStyle = colour;
      pen.globalAlpha = alpha;
      pen.lineWidth = width;
      pen.lineJoin = "round";
      pen.beginPath();
      points.forEach(([step, value], place) => (place ? pen.lineTo(x(step), y(value)) : pen.moveTo(x(step), y(value))));
      pen.stroke();
      if (points.length < 30)
        for (const [step, value] of points) {
          pen.beginPath();
          pen.arc(x(step), y(value), 2.2, 0, 7);
          pen.fill();
        }
      pen.globalAlpha = 1;
    };
    pen.font = `11px ${ink("--sans")}`;
    pen.fillStyle = ink("--soft");
    pen.strokeStyle = ink("--line");
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const value of ticks(low, high_, 4)) {
      const place = TOP + (1 - (value - low) / (high_ - low)) * (high - TOP - BOTTOM);
      pen.beginPath();
      pen.moveTo(LEFT, place);
      pen.lineTo(wide - RIGHT, place);
      pen.stroke();
      pen.fillText(compact(log ? 10 ** value : value), LEFT - 7, place);
    }
    pen.textAlign = "center";
    for (const step of ticks(first, last, Math.max(2, Math.floor(wide / 120)))) if (Number.isInteger(step)) pen.fillText(compact(step), Math.min(this.x(step), wide - 16), high - 9);
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, TOP - 2, wide - LEFT - RIGHT + 2, high - TOP - BOTTOM + 4);
    pen.clip();
    const colours = [ink("--green"), ink("--hot")];
    this.lines.forEach((line, place) => {
      const smooth = place === 0 && line.points.length > 20 ? options.smooth : 0;
      if (smooth) stroke(line.points, colours[place], 1, 0.25);
      stroke(smooth ? smoothed(line.points, smooth) : line.points, colours[place], 1.8, 1);
    });
    if (this.at !== undefined && this.at !== null) {
      pen.strokeStyle = ink("--soft");
      pen.beginPath();
      pen.moveTo(this.x(this.at), TOP);
      pen.lineTo(this.x(this.at), high - BOTTOM);
      pen.stroke();
    }
    pen.restore();
  }

  hover(offset) {
    const main = this.lines[0]?.points ?? [];
    if (offset === null || !main.length || !this.x) {
      this.at = null;
      this.reading.textContent = compact(main.at(-1)?.[1]);
      return this.draw();
    }
    const nearest = (points) => points.reduce((best, point) => (Math.abs(this.x(point[0]) - offset) < Math.abs(this.x(best[0]) - offset) ? point : best), points[0]);
    const [step, value] = nearest(main);
    this.at = step;
    const others = this.lines.slice(1).filter((line) => line.points.length).map((line) => ` · ${t(line.label)} ${compact(nearest(line.points)[1])}`);
    this.reading.textContent = `${t("step", { n: step })}: ${compact(value)}${others.join("")}`;
    return this.draw();
  }
}
