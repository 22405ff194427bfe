// "Try the model": the trained clinical encoder, fusion and five heads, computed in the page.
//
// `memoir_book/live.py` writes model.js: weights and cases of a synthetic run. The
// first part below follows `memoir_core/model.py` step by step, the second draws the controls. A
// script is loaded and nothing fetched, so that pages opened from the disk work as well; words
// become text and never markup.
(() => {
  "use strict";
  const HERE = document.currentScript.src;
  const HEADS = 8; // of the attention
  const DX = ["CN", "MCI", "Dementia"];
  const MODALITIES = ["t1", "fa", "clinical"];
  const UNKNOWN = 3; // the genotype that nobody knows
  const NEAREST = 5;

  // --- the network ---------------------------------------------------------------------------

  let loading;
  const load = () => {
    loading ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = new URL("model.js", HERE);
      script.onload = () => done(globalThis.MEMOIR_MODEL && unpack(globalThis.MEMOIR_MODEL));
      script.onerror = () => failed(new Error("model.js is missing"));
      document.head.append(script);
    });
    return loading;
  };

  // Arrays are stored as safetensors do it: the length of a header, the header, the numbers. A
  // matrix of whole numbers has a scale for each row.
  const KINDS = { I8: Int8Array, I16: Int16Array, F32: Float32Array };
  const inflate = async (packed) => {
    const text = atob(packed);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(whole).arrayBuffer());
  };
  const unpack = async (packed) => {
    const model = JSON.parse(new TextDecoder().decode(await inflate(packed.told)));
    const bytes = await inflate(packed.arrays);
    const start = 8 + new DataView(bytes.buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
    const arrays = {};
    for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
      if (!KINDS[dtype]) continue; // a count that nobody reads
      const data = new KINDS[dtype](bytes.buffer.slice(start + from, start + to));
      arrays[name] = { data, columns: shape.at(-1) };
    }
    for (const name of Object.keys(arrays)) arrays[name].scale = arrays[`${name}.scale`]?.data;
    const { scaler } = model;
    const scores = Object.keys(model.ends[0]).map((column, i) => ({
      column,
      mean: scaler.score_mean[i],
      std: scaler.score_std[i],
      min: model.ends[0][column],
      max: model.ends[1][column],
    }));
    // a vector of zeros is an absent modality
    const present = model.cases.map((_, i) => [0, 1].map((m) => row(arrays.z, 2 * i + m).some(Boolean)));
    return { ...model, arrays, scores, present };
  };

  const row = ({ data, columns, scale }, i) => {
    const values = Float32Array.from(data.subarray(i * columns, (i + 1) * columns));
    return scale ? values.map((v) => v * scale[i]) : values;
  };
  const dot = (a, b) => {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  };
  const times = ({ data, columns, scale }, x) => {
    const y = new Float32Array(data.length / columns);
    for (let i = 0, at = 0; i < y.length; i++) {
      let sum = 0;
      for (let j = 0; j < columns; j++) sum += data[at++] * x[j];
      y[i] = scale ? sum * scale[i] : sum;
    }
    return y;
  };
  const linear = (arrays, layer, x) => {
    const bias = arrays[`${layer}.bias`].data;
    return times(arrays[`${layer}.weight`], x).map((v, i) => v + bias[i]);
  };
  // Abramowitz and Stegun 7.1.26: off by 1.5e-7 at most
  const erf = (x) => {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const p = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
    const tail = p.reduce((sum, c) => sum * t + c, 0) * t * Math.exp(-x * x);
    return x < 0 ? tail - 1 : 1 - tail;
  };
  const gelu = (x) => x.map((v) => 0.5 * v * (1 + erf(v / Math.SQRT2)));
  const unit = (x) => {
    const length = Math.max(Math.sqrt(dot(x, x)), 1e-12);
    return x.map((v) => v / length);
  };
  const layerNorm = (arrays, layer, x) => {
    const mean = x.reduce((a, b) => a + b, 0) / x.length;
    const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length;
    const [weight, bias] = [arrays[`${layer}.weight`].data, arrays[`${layer}.bias`].data];
    return x.map((v, i) => ((v - mean) / Math.sqrt(variance + 1e-5)) * weight[i] + bias[i]);
  };
  const softmax = (x) => {
    const most = Math.max(...x);
    const powers = Array.from(x, (v) => Math.exp(v - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((v) => v / sum);
  };

  /** Encode five scores (null: unknown) and a genotype (0 to 3): a unit vector (512). */
  const encodeClinical = (model, scores, apoe) => {
    const { arrays } = model;
    const x = new Float32Array(2 * scores.length);
    scores.forEach((score, i) => {
      if (score === null) return;
      x[i] = (score - model.scores[i].mean) / model.scores[i].std;
      x[scores.length + i] = 1;
    });
    let y = [...x, ...row(arrays["clinical.apoe.weight"], apoe)];
    y = gelu(linear(arrays, "clinical.mlp.0", y));
    y = gelu(linear(arrays, "clinical.mlp.3", y));
    const mean = arrays["clinical.mlp.5.running_mean"].data;
    const variance = arrays["clinical.mlp.5.running_var"].data;
    y = y.map((v, i) => (v - mean[i]) / Math.sqrt(variance[i] + 1e-5));
    return unit(linear(arrays, "clinical.mlp.6", y));
  };

  /** Fuse three embeddings (null: absent): z_fused (512), and weights, (8, 3). */
  const fuse = (model, embeddings) => {
    const { arrays } = model;
    const width = arrays.look.columns;
    const tokens = embeddings.map((embedding, m) => {
      const mark = arrays["fusion.modality"].data.subarray(m * width, (m + 1) * width);
      return embedding && embedding.map((v, i) => v * Math.sqrt(width) + mark[i]);
    });
    const values = tokens.map((token) => token && linear(arrays, "value", token));
    const there = tokens.flatMap((token, m) => (token ? [m] : []));
    const pooled = new Float32Array(width);
    const weights = [];
    for (let head = 0; head < HEADS; head++) {
      const look = row(arrays.look, head);
      const shares = softmax(there.map((m) => dot(look, tokens[m])));
      weights.push(embeddings.map((_, m) => (tokens[m] ? shares[there.indexOf(m)] : 0)));
      for (let i = (head * width) / HEADS; i < ((head + 1) * width) / HEADS; i++)
        there.forEach((m, k) => (pooled[i] += shares[k] * values[m][i]));
    }
    const seen = layerNorm(arrays, "fusion.norm", linear(arrays, "fusion.attention.out_proj", pooled));
    const more = linear(arrays, "fusion.mlp.3", gelu(linear(arrays, "fusion.mlp.0", seen)));
    return { z: layerNorm(arrays, "fusion.out", seen.map((v, i) => v + more[i])), weights };
  };

  /** The train cases of largest cosine with z_fused: {row of model.train, cosine}, best first. */
  const nearest = (model, z) => {
    const found = times(model.arrays.index, unit(z));
    const order = Array.from(found.keys()).sort((a, b) => found[b] - found[a]);
    return order.slice(0, NEAREST).map((i) => ({ row: i, cosine: found[i] }));
  };

  /**
   * Predict one test case. asked: { at: place in model.cases, see: {t1, fa, clinical} of bool,
   * scores: five numbers or null, apoe: 0 to 3 }. null where nothing is left to see.
   */
  const predict = (model, { at, see, scores, apoe }) => {
    const told = scores.some((score) => score !== null) || apoe !== UNKNOWN;
    const has = [model.present[at][0], model.present[at][1], told];
    const embeddings = MODALITIES.map((name, m) => {
      if (!see[name] || !has[m]) return null;
      return name === "clinical"
        ? encodeClinical(model, scores, apoe)
        : row(model.arrays.z, 2 * at + m);
    });
    if (!embeddings.some(Boolean)) return null;
    const { z, weights } = fuse(model, embeddings);
    const head = (name) => {
      const hidden = gelu(linear(model.arrays, `heads.${name}.0`, z));
      return [...linear(model.arrays, `heads.${name}.3`, hidden)];
    };
    const { age_mean, age_std, cdrsb_mean, cdrsb_std } = model.scaler;
    return {
      z,
      weights,
      attention: MODALITIES.map((_, m) => weights.reduce((s, w) => s + w[m], 0) / HEADS),
      dx3: softmax(head("dx3")),
      dx2: softmax(head("dx2")),
      sex: softmax(head("sex")),
      age: head("age")[0] * age_std + age_mean,
      cdrsb: head("cdrsb")[0] * cdrsb_std + cdrsb_mean,
      nearest: nearest(model, z),
    };
  };

  // --- the page ------------------------------------------------------------------------------

  const SCORE = { CDRSB: "CDR-SB", ADAS11: "ADAS-11", ADAS13: "ADAS-13", MMSE: "MMSE", MOCA: "MoCA" };
  const CALLED = { t1: "T1", fa: "FA", clinical: "clinical scores" };
  const APOE = ["no e4 allele", "one e4 allele", "two e4 alleles", "unknown"];
  const SEX = ["Female", "Male"];
  let boxesMade = 0;

  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element && name !== "list") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const recorded = (model, at) => {
    const of = model.cases[at];
    return {
      at,
      see: { t1: true, fa: true, clinical: true },
      scores: model.scores.map(({ column }) => of[column]),
      apoe: of.APOE4 ?? UNKNOWN,
    };
  };
  const short = (value) => String(Math.round(value * 100) / 100);

  /** A table with a bar per row; `update` sets what is now and what the inputs as recorded give. */
  const bars = (title, names, colours = []) => {
    const body = make("tbody");
    const rows = names.map((name, i) => {
      const fill = make("span", { className: "try-fill" });
      const mark = make("span", { className: "try-mark" });
      if (colours[i]) fill.style.background = `var(--try-${colours[i]})`;
      const track = make("td", { className: "try-track" }, make("span", {}, fill, mark));
      track.setAttribute("aria-hidden", "true");
      const label = make("th", { scope: "row" }, name);
      const [now, before] = [make("td"), make("td", { className: "try-before" })];
      body.append(make("tr", {}, label, track, now, before));
      return { label, fill, mark, now, before };
    });
    const head = make("tr", {}, make("td"), make("td", { "aria-hidden": "true" }));
    for (const words of ["now", "unchanged"]) head.append(make("th", { scope: "col" }, words));
    const table = make("table", {}, make("caption", {}, title), make("thead", {}, head), body);
    const update = (values, first, words = (v) => v.toFixed(2), [low, high] = [0, 1], truth = -1) => {
      rows.forEach((r, i) => {
        const place = (v) => `${Math.min(100, Math.max(0, (100 * (v - low)) / (high - low)))}%`;
        r.fill.style.width = values ? place(values[i]) : "0";
        r.mark.style.left = place(first[i]);
        r.now.textContent = values ? words(values[i]) : "none";
        r.before.textContent = words(first[i]);
        r.label.textContent = names[i] + (i === truth ? " (recorded)" : "");
      });
    };
    return { table, update };
  };

  /** How far the page is from the weights as trained, on all its cases and subsets. */
  const distance = async (model) => {
    const apart = { p: 0, age: 0, cdrsb: 0, other: 0, n: 0, five: 0 };
    const best = (values) => values.indexOf(Math.max(...values));
    const place = new Map(model.cases.map((c, i) => [c.case, i]));
    for (const [subset, rows] of Object.entries(model.trained)) {
      const see = Object.fromEntries(MODALITIES.map((name) => [name, subset.split("+").includes(name)]));
      for (const row of rows) {
        if (apart.n % 4 === 0) await new Promise((done) => setTimeout(done)); // sliders go on
        const now = predict(model, { ...recorded(model, place.get(row.case)), see });
        const then = DX.map((name) => row[`p_${name}`]);
        apart.n += 1;
        apart.p = Math.max(apart.p, ...now.dx3.map((p, i) => Math.abs(p - then[i])));
        apart.age = Math.max(apart.age, Math.abs(now.age - row.AGE_pred));
        apart.cdrsb = Math.max(apart.cdrsb, Math.abs(now.cdrsb - row.CDRSB_pred));
        apart.other += best(now.dx3) !== best(then);
      }
    }
    model.five.forEach((five, i) => {
      const now = predict(model, recorded(model, i)).nearest;
      apart.five += now.filter((hit) => five.includes(hit.row)).length / model.five.length;
    });
    return apart;
  };
  const exactness = (model) => {
    const said = make("p", {}, "Computing ...");
    const box = make("details", { className: "try-exact" },
      make("summary", {}, "How far is this page from the network as trained?"), said);
    box.addEventListener("toggle", async () => {
      const { p, age, cdrsb, other, n, five } = await distance(model);
      said.textContent = `Weights are stored in 8 bits. Just now your `
        + `browser repeated ${n} predictions of the run, all cases above from all subsets that they have. `
        + `The probability of a class differs by ${p.toFixed(4)} at most, age by ${age.toFixed(2)} years, `
        + `CDR-SB by ${cdrsb.toFixed(3)} points; another diagnosis is named in ${other}. Of the five `
        + `nearest cases, ${five.toFixed(2)} on average are those of the run.`;
    }, { once: true });
    return box;
  };

  const build = (model, box) => {
    const id = `try-${++boxesMade}`;
    let asked, first;
    let spoken = 0;
    let speaks = false; // not before somebody did something

    // what is chosen
    const person = make("select", { id: `${id}-case` });
    model.cases.forEach((c, i) => {
      const fa = model.present[i][1] ? "T1, FA" : "T1";
      const who = c.PTGENDER === "Male" ? "man" : "woman";
      const words = `case ${c.case}: ${c.DX}, ${who} of ${Math.round(c.AGE)}; ${fa}`;
      person.append(make("option", { value: i }, words));
    });
    const see = MODALITIES.map((name) => {
      const input = make("input", { type: "checkbox", id: `${id}-${name}` });
      const note = make("span");
      input.addEventListener("change", () => {
        asked.see[name] = input.checked;
        draw();
      });
      const label = make("label", { htmlFor: input.id }, input, ` ${CALLED[name]}`, note);
      return { name, input, note, label };
    });
    const sliders = model.scores.map((score, i) => {
      const name = `${id}-score${i}`;
      const { min, max, column } = score;
      const step = column === "CDRSB" ? 0.5 : 1;
      const input = make("input", { type: "range", id: name, min, max, step });
      const value = make("output", { htmlFor: name });
      value.setAttribute("aria-live", "off"); // the range itself says it
      const known = make("input", { type: "checkbox", id: `${name}-known` });
      input.addEventListener("input", () => {
        asked.scores[i] = input.valueAsNumber;
        draw();
      });
      known.addEventListener("change", () => {
        asked.scores[i] = known.checked ? input.valueAsNumber : null;
        draw();
      });
      const line = make(
        "div",
        { className: "try-slider" },
        make("label", { htmlFor: name }, SCORE[column]),
        input,
        value,
        make("label", { htmlFor: known.id }, known, " known"),
      );
      known.setAttribute("aria-label", `${SCORE[column]} known`);
      return { input, value, known, line };
    });
    const apoe = make("select", { id: `${id}-apoe` });
    APOE.forEach((words, i) => apoe.append(make("option", { value: i }, words)));
    apoe.addEventListener("change", () => {
      asked.apoe = Number(apoe.value);
      draw();
    });
    const reset = make("button", { type: "button" }, "Undo all changes");
    const choose = (i) => {
      asked = recorded(model, i);
      first = predict(model, asked);
      draw();
    };
    reset.addEventListener("click", () => choose(asked.at));
    person.addEventListener("change", () => choose(Number(person.value)));

    // what the network makes of it
    const attention = bars("Attention: what the fusion looks at, mean of eight heads",
      MODALITIES.map((name) => CALLED[name]));
    const dx3 = bars("Diagnosis, three classes", DX, DX);
    const dx2 = bars("CN or dementia", ["CN", "Dementia"], ["CN", "Dementia"]);
    const sex = bars("Sex", SEX);
    const age = bars("Age in years", ["age"]);
    const cdrsb = bars("CDR-SB in points", ["CDR-SB"]);
    const perHead = make("tbody");
    const headNames = make("tr", {}, make("th", { scope: "col" }, "head"));
    for (const name of MODALITIES) headNames.append(make("th", { scope: "col" }, CALLED[name]));
    const eight = make("details", {}, make("summary", {}, "The eight heads"),
      make("table", { className: "try-eight" }, make("thead", {}, headNames), perHead));
    const found = make("ol");
    const truth = make("p", { className: "try-truth" });
    const part = (name, title, ...inside) => {
      const heading = make("p", { className: "try-title", id: `${id}-${name}` }, title);
      const section = make("section", { className: `try-${name}` }, heading, ...inside);
      section.setAttribute("aria-labelledby", heading.id);
      return section;
    };
    const parts = {
      attention: part("attention", "Attention", attention.table, eight),
      heads: part("heads", "Five heads", truth, dx3.table, dx2.table, sex.table, age.table, cdrsb.table),
      nearest: part("nearest", "Nearest five train cases", found),
    };
    const summary = make("p", { className: "try-summary" });
    summary.setAttribute("aria-hidden", "true");
    const live = make("p", { className: "try-live", role: "status" });
    live.setAttribute("aria-live", "polite");

    const draw = () => {
      const now = predict(model, asked);
      const of = model.cases[asked.at];
      see.forEach(({ name, input, note }, m) => {
        const there = name === "clinical" || model.present[asked.at][m];
        input.checked = asked.see[name] && there;
        input.disabled = !there;
        note.textContent = there ? "" : " (never taken)";
      });
      sliders.forEach(({ input, value, known }, i) => {
        const score = asked.scores[i];
        const words = score === null ? "unknown" : short(score);
        known.checked = score !== null;
        input.disabled = score === null;
        if (score !== null && input.valueAsNumber !== score) input.value = score;
        input.setAttribute("aria-valuetext", words);
        value.textContent = score === null ? "?" : words;
      });
      person.value = asked.at;
      apoe.value = asked.apoe;
      const ages = model.cases.map((c) => c.AGE);
      const scale = [Math.min(...ages) - 5, Math.max(...ages) + 5];
      const one = (v) => v.toFixed(1);
      attention.update(now?.attention, first.attention);
      dx3.update(now?.dx3, first.dx3, undefined, undefined, DX.indexOf(of.DX));
      dx2.update(now?.dx2, first.dx2, undefined, undefined, ["CN", "Dementia"].indexOf(of.DX));
      sex.update(now?.sex, first.sex, undefined, undefined, SEX.indexOf(of.PTGENDER));
      age.update(now && [now.age], [first.age], one, scale);
      cdrsb.update(now && [now.cdrsb], [first.cdrsb], one, [0, model.scores[0].max]);
      const score = of[model.scores[0].column];
      truth.textContent = `Recorded of case ${of.case}: ${of.DX}, ${of.PTGENDER.toLowerCase()}, `
        + `${one(of.AGE)} years, CDR-SB ${score === null ? "unknown" : short(score)}.`;
      perHead.replaceChildren(...(now?.weights ?? []).map((weights, head) => {
        const line = make("tr", {}, make("th", { scope: "row" }, String(head + 1)));
        line.append(...weights.map((w) => make("td", {}, w.toFixed(2))));
        return line;
      }));
      const before = new Set(first.nearest.map((hit) => hit.row));
      found.replaceChildren(...(now?.nearest ?? []).map(({ row: i, cosine }) => {
        const other = model.train[i];
        const name = make("strong", {}, `Case ${other.case}, ${other.DX}`);
        const words = ` (cosine ${cosine.toFixed(4)}${before.has(i) ? "" : "; new"}): `;
        return make("li", {}, name, words, other.caption);
      }));
      say(now);
    };

    // one line that stays in sight, and the same for a screen reader once the slider rests
    const say = (now) => {
      window.clearTimeout(spoken);
      if (!now) {
        summary.textContent = "Nothing is left to see: switch something on.";
        live.textContent = summary.textContent;
        return;
      }
      const best = (values) => values.indexOf(Math.max(...values));
      summary.replaceChildren(...DX.flatMap((name, i) => {
        const dot = make("span", { className: "try-dot" });
        dot.style.background = `var(--try-${name})`;
        return [dot, `${name} ${now.dx3[i].toFixed(2)} `];
      }), `age ${now.age.toFixed(1)}, CDR-SB ${now.cdrsb.toFixed(1)}`);
      const counted = DX.map((name) => [now.nearest.filter(
        (hit) => model.train[hit.row].DX === name).length, name]);
      const words = [
        `${DX[best(now.dx3)]} ${Math.max(...now.dx3).toFixed(2)}`,
        `unchanged ${DX[best(first.dx3)]} ${Math.max(...first.dx3).toFixed(2)}`,
        `age ${now.age.toFixed(1)}`,
        `CDR-SB ${now.cdrsb.toFixed(1)}`,
        "attention " + now.attention.map((w, m) => `${CALLED[MODALITIES[m]]} ${w.toFixed(2)}`).join(", "),
        "nearest " + counted.filter(([n]) => n).map(([n, name]) => `${n} ${name}`).join(", "),
      ];
      if (speaks) spoken = window.setTimeout(() => (live.textContent = `${words.join("; ")}.`), 400);
    };

    const group = (title, ...inside) =>
      make("fieldset", {}, make("legend", {}, title), ...inside);
    const controls = make("div", { className: "try-controls" },
      make("label", { htmlFor: person.id }, "Test case"), person,
      group("The model sees", ...see.map(({ label }) => label)),
      group("Clinical scores", ...sliders.map(({ line }) => line),
        make("div", { className: "try-slider" }, make("label", { htmlFor: apoe.id }, "APOE"), apoe)),
      reset);
    const order = [box.dataset.first, ...Object.keys(parts)].filter((name) => name in parts);
    const results = make("div", { className: "try-results" }, ...new Set(order.map((name) => parts[name])));
    const exact = exactness(model);
    const about = make("p", { className: "try-about" }, `The model of this run: ${model.label}. `
      + `The ${model.cases.length} people are of its test part, and synthetic. Not for clinical use.`);
    box.replaceChildren(controls, results, summary, live, about, exact);
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Try the model");
    choose(Math.max(0, model.present.findIndex(([, fa]) => fa)));
    speaks = true;
    box.dataset.ready = "yes";
    if (!box.dataset.first) exact.open = true; // on the page of its own
  };

  // null: a run on real people, of which nothing is shown
  const open = (box) => load().then((model) => model && build(model, box)).catch((error) => {
    box.append(make("p", {}, `It cannot be loaded in this browser (${error.message}).`));
  });
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      open(target);
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll(".memoir-try").forEach((box) => watcher.observe(box));

  window.memoirTry = { load, predict, recorded, distance };
})();
