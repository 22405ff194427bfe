/* One viewer of brain volumes for all pages, drawn by NiiVue (niivue.umd.js).

A figure of class "brain" holds a picture and, in data-brain, what can be walked through:
  layers: {name, colormap, ...} in the words of ipyniivue, and files: one of each; base: true where
  the first lies under all others, of which one is shown; unit: of their values; own: true where a
  reader may lay a volume of their own over the first, judged by the second, a mask.
The picture stays until the reader opens the viewer. So no page loads the library unasked, a page
without JavaScript or WebGL2 shows the picture, and nothing catches the wheel of who scrolls by.
A volume is volumes/<file>.js beside this script, gzipped NIfTI in base64: a page that is opened from
a disk may load scripts, but may not fetch.
*/
(() => {
  "use strict";
  const HERE = new URL(".", document.currentScript.src).href;
  const packed = (window.memoirVolumes = {}); // file -> base64
  const VIEWS = { "four views": 3, axial: 0, coronal: 1, sagittal: 2, "3D": 4 };
  const AXES = [["x", "left to right"], ["y", "back to front"], ["z", "bottom to top"]];
  const scripts = {};

  const load = (path) =>
    (scripts[path] ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = HERE + path;
      script.onload = done;
      script.onerror = () => {
        delete scripts[path];
        failed(new Error(`${path} is not beside this page`));
      };
      document.head.append(script);
    }));

  function make(tag, props = {}, ...children) {
    const made = Object.assign(document.createElement(tag), props);
    made.append(...children);
    return made;
  }

  async function read(layer) {
    if (layer.image) return layer.image; // the reader's own
    await load(`volumes/${layer.file}.js`);
    const { file, colormap_negative: negative, ...how } = layer;
    const colours = { colormapNegative: negative ?? "", colorbarVisible: Boolean(negative) };
    return niivue.NVImage.loadFromBase64({ base64: packed[file], ...how, ...colours });
  }

  const title = (layer) => layer.name.replace(/\.nii(\.gz)?$/, "");

  const hasWebGL2 = () => Boolean(document.createElement("canvas").getContext("webgl2"));

  const slider = (text, props) => {
    const input = make("input", { type: "range", ...props });
    return [make("label", {}, `${text} `, input), input];
  };

  class Viewer {
    constructor(figure, told) {
      this.figure = figure;
      this.told = told;
      this.picture = figure.querySelector("img");
      const layers = told.layers.map((layer, i) => ({ ...layer, file: told.files[i] }));
      this.base = told.base ? 1 : 0; // layers that stay
      this.under = layers.slice(0, this.base);
      this.layers = layers.slice(this.base);
      this.turn = 0; // of what was asked for: the last wins
    }

    async open() {
      await load("niivue.umd.js");
      this.build();
      this.nv = new niivue.Niivue({
        backColor: [0, 0, 0, 1], crosshairColor: [0.2, 1, 0.3, 1], crosshairWidth: 1.5,
        crosshairWidthUnit: "mm", multiplanarLayout: 2, // a grid of two by two
        isColorbar: this.base > 0 && !this.told.own, dragAndDropEnabled: false, scrollRequiresFocus: true,
        logLevel: "silent", loadingText: "", multiplanarShowRender: 1, isAntiAlias: false,
        isCornerOrientationText: true, viewModeHotKey: "", clipPlaneHotKey: "",
        cycleClipPlaneHotKey: "",
      });
      await this.nv.attachToCanvas(this.canvas, false);
      this.nv.setSliceType(3);
      for (const layer of this.under) this.nv.addVolume(await read(layer));
      this.nv.onLocationChange = (at) => this.say(at);
      await this.show(0);
    }

    build() {
      const { told } = this;
      const names = this.layers.map((layer, i) => make("option", { value: i }, title(layer)));
      this.choice = make("select", {}, ...names);
      this.choice.onchange = () => this.show(Number(this.choice.value));
      this.view = make("select", {}, ...Object.keys(VIEWS).map((v) => make("option", {}, v)));
      this.view.onchange = () => this.nv.setSliceType(VIEWS[this.view.value]);
      const top = [make("label", {}, "shown ", this.choice), make("label", {}, "view ", this.view)];
      if (this.base) {
        const cover = { min: 0, max: 1, step: 0.05, value: told.own ? 0.5 : 0.8 };
        [top[2], this.cover] = slider("cover", cover);
        this.cover.oninput = () => this.nv.setOpacity(this.base, Number(this.cover.value));
      }
      if (this.base && !told.own) {
        const most = this.layers[0].cal_max, least = this.layers[0].cal_min;
        [top[3], this.least] = slider("from", { min: 0, max: most, step: most / 50, value: least });
        this.least.oninput = () => this.threshold();
      }
      this.canvas = make("canvas", { tabIndex: 0 });
      this.canvas.setAttribute("role", "img");
      const help = "Arrow keys, page up and page down move the crosshair; so do the sliders below.";
      this.canvas.setAttribute("aria-label", `${this.picture.alt} ${help}`);
      this.canvas.addEventListener("keydown", (event) => this.key(event), true);
      this.places = AXES.map(([name, words]) => {
        const [label, input] = slider(`${name}, ${words}`, { min: -90, max: 90, step: 1, value: 0 });
        input.oninput = () => this.place();
        return { label, input };
      });
      this.said = make("output", { className: "brain-said" });
      this.tools = make("div", { className: "brain-tools" },
        make("div", { className: "brain-row" }, ...top),
        make("div", { className: "brain-canvas" }, this.canvas),
        make("div", { className: "brain-row" }, ...this.places.map((p) => p.label)), this.said);
      this.picture.after(this.tools);
      this.picture.hidden = true;
    }

    async show(index) {
      const turn = ++this.turn, layer = this.layers[index], { nv } = this;
      const image = await read(layer);
      if (turn !== this.turn) return;
      const at = this.shown ? this.places.map((p) => Number(p.input.value)) : this.start(image);
      while (nv.volumes.length > this.base) nv.removeVolumeByIndex(this.base);
      image.opacity = this.base ? Number(this.cover.value) : 1;
      nv.addVolume(image);
      this.shown = layer;
      if (this.least) this.threshold();
      this.place(at);
    }

    /** Where a walk begins; the sliders get the ends of the grid. */
    start(image) {
      const grid = this.base ? this.nv.volumes[0] : image;
      const [low, high] = [grid.extentsMinOrtho, grid.extentsMaxOrtho];
      this.places.forEach(({ input }, i) => {
        [input.min, input.max] = [Math.ceil(low[i]), Math.floor(high[i])];
      });
      return [24, -18, 4]; // mm of MNI space: beside the hippocampus
    }

    threshold() {
      const image = this.nv.volumes[this.base], least = Number(this.least.value);
      this.least.setAttribute("aria-valuetext", least.toFixed(2));
      image.cal_min = least;
      this.nv.updateGLVolume();
    }

    place(at = this.places.map((p) => Number(p.input.value))) {
      this.nv.scene.crosshairPos = this.nv.mm2frac(at, 0, true);
      this.nv.drawScene();
      this.nv.createOnLocationChange();
    }

    key(event) {
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1],
        PageDown: [2, -1], PageUp: [2, 1] };
      event.stopImmediatePropagation(); // NiiVue's own keys want a mouse
      const [axis, step] = moves[event.key] ?? [];
      if (step === undefined) return;
      event.preventDefault();
      const { input } = this.places[axis];
      input.value = Number(input.value) + 2 * step;
      this.place();
    }

    say({ mm, values }) {
      this.places.forEach(({ input }, i) => {
        input.value = Math.round(mm[i]);
        input.setAttribute("aria-valuetext", `${input.value} mm`);
      });
      const found = values[this.base];
      const unit = this.told.unit && !this.shown.image ? ` (${this.told.unit})` : "";
      const where = AXES.map(([name], i) => `${name} ${Math.round(mm[i])}`).join(", ");
      const value = found ? `: ${title(this.shown)} ${Number(found.value.toPrecision(3))}${unit}` : "";
      this.said.textContent = `${where} mm${value}`;
    }

    /** Lay a file of the reader over the template, and judge it; it goes nowhere. */
    async take(file) {
      const say = (...parts) => this.verdict.replaceChildren(...parts);
      say(`Reading ${file.name} ...`);
      delete this.figure.dataset.found;
      try {
        await load("volume_check.js");
        const how = { file, name: file.name, colormap: "warm", opacity: 0.5 };
        const image = await niivue.NVImage.loadFromFile(how);
        if (!image?.img?.length) throw new Error("it holds no volume");
        this.layers.push({ name: file.name, image });
        const index = this.layers.length - 1;
        this.choice.append(make("option", { value: index }, file.name));
        this.choice.value = index;
        await this.show(index);
        this.mask ??= await read(this.layers[0]);
        const found = memoirCheck.numbers(image, this.nv.volumes[0], this.mask);
        say(this.table(file.name, found, memoirCheck.judge(found)));
        this.figure.dataset.found = JSON.stringify(found);
      } catch (error) {
        const why = `${file.name} cannot be read (${error.message ?? error}).`;
        say(`${why} Save it as one 3D volume, .nii or .nii.gz.`);
      }
    }

    table(name, found, verdicts) {
      const row = (cell, ...words) => make("tr", {}, ...words.map((w) => make(cell, {}, w)));
      const rows = memoirCheck.MEASURES.map(([key, words, fits, form]) =>
        row("td", words, form(found[key]), fits));
      const head = make("thead", {}, row("th", "measured", "here", "a registered, stripped brain"));
      const said = verdicts.map(([asked, answer, why]) =>
        make("p", {}, make("strong", {}, `${asked} ${answer}.`), ` ${why}`));
      return make("div", {}, make("p", {}, name), ...said,
        make("table", { className: "dataframe" }, head, make("tbody", {}, ...rows)));
    }

    /** The part where a reader gives a volume. From here on this page connects to nothing. */
    invite() {
      const rule = { httpEquiv: "Content-Security-Policy", content: "connect-src 'none'" };
      document.head.append(make("meta", rule));
      const input = make("input", { type: "file" });
      input.onchange = () => input.files[0] && this.take(input.files[0]);
      this.figure.addEventListener("dragover", (event) => event.preventDefault());
      this.figure.addEventListener("drop", (event) => {
        event.preventDefault();
        if (event.dataTransfer.files[0]) this.take(event.dataTransfer.files[0]);
      });
      this.verdict = make("div", { className: "brain-verdict" });
      this.verdict.setAttribute("role", "status");
      const words = "a volume (NIfTI), chosen here or dropped on this figure; it stays in this browser ";
      this.tools.prepend(make("p", {}, make("label", {}, words, input)));
      this.tools.append(this.verdict);
    }
  }

  function offer(figure) {
    const told = JSON.parse(figure.dataset.brain);
    const note = make("p", { className: "brain-note" });
    note.setAttribute("role", "status");
    if (!hasWebGL2()) {
      note.textContent = "This browser has no WebGL2, so the picture cannot be walked through.";
      return figure.append(note);
    }
    const words = told.own ? "Look at a volume of your own" : "Walk through it in 3D";
    const button = make("button", { type: "button", className: "brain-open" }, words);
    button.onclick = async () => {
      button.disabled = true;
      note.textContent = "Loading ...";
      const viewer = new Viewer(figure, told);
      try {
        await viewer.open();
        if (told.own) viewer.invite();
        note.textContent = "";
        button.remove();
        (told.own ? viewer.tools.querySelector("input") : viewer.canvas).focus();
        figure.dataset.open = "true";
      } catch (error) {
        viewer.tools?.remove();
        viewer.picture.hidden = button.disabled = false;
        note.textContent = `The viewer did not open: ${error.message ?? error}.`;
      }
    };
    figure.append(button, note);
  }

  const start = () => document.querySelectorAll("figure.brain").forEach(offer);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
