// The page's viewer: voxels and Gaussians of key frames in the ego frame, x forward, y left, z up, metres. Nothing is drawn unless something changes.
"use strict";
(() => {
  const FREE = 17, MASK = 31;
  // As report/voxels.py and report/gaussians.py pack them
  const TRUTH_SHIFT = 5, SEEN_BIT = 1 << 10, SHOWS = { prediction: 1 << 11, truth: 1 << 12, error: 1 << 13 };
  const RIGHT = 0, MISSED = 1, FALSE = 2, CONFUSED = 3, NOT_JUDGED = 4;
  const GAUSSIAN_BYTES = 15, STANDARD_DEVIATIONS = 1.5, PALE = 0.72;
  const BACKGROUND = 0xe4e8ee, FIELD_OF_VIEW = 50;
  const LOOKS = { behind: [[-27, 0, 21], [7, 0, -1]], above: [[-0.5, 0, 92], [0, 0, 0]] };
  const PLAY_MS = 700;
  const at = (id) => document.getElementById(id);
  const content = JSON.parse(at("content").textContent);
  if (!content.frames.length) return;
  const { grid, frames } = content;
  const [, ny, nz] = grid.shape;

  const canvas = at("canvas"), caption = at("caption");
  const fail = (text) => { caption.textContent = text; canvas.dataset.shown = "failed"; at("controls").hidden = true; };
  if (typeof DecompressionStream === "undefined") return fail("This browser cannot decompress what the page holds; one of 2023 or later can.");
  let renderer;
  try {
    renderer = new THREE.WebGLRenderer({ canvas, antialias: true, preserveDrawingBuffer: true });
  } catch {
    return fail("This browser has no WebGL, which the 3D view needs.");
  }

  const scene = new THREE.Scene();
  scene.background = new THREE.Color(BACKGROUND);
  const camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.5, 500);
  camera.up.set(0, 0, 1);
  const sky = new THREE.HemisphereLight(0xffffff, 0x9a9488, 2.0), sun = new THREE.DirectionalLight(0xffffff, 1.7);
  sky.position.set(0, 0, 1);
  sun.position.set(-0.45, 0.55, 1);
  scene.add(sky, sun);
  const controls = new THREE.OrbitControls(camera, canvas);
  controls.addEventListener("change", draw);

  function look(name) {
    camera.position.set(...LOOKS[name][0]);
    controls.target.set(...LOOKS[name][1]);
    controls.update();
    draw();
  }

  function draw() {
    renderer.render(scene, camera);
  }

  // ---- what stands still: the grid's frame and the vehicle -------------------------------------------------------------------------------
  const size = grid.shape.map((count) => count * grid.cell_size), middle = size.map((length, axis) => grid.lower[axis] + length / 2);
  const frame = new THREE.LineSegments(new THREE.EdgesGeometry(new THREE.BoxGeometry(...size)), new THREE.LineBasicMaterial({ color: 0xb4bcc8 }));
  frame.position.set(...middle);
  const paint = new THREE.MeshLambertMaterial({ color: content.ego.color });
  const [back, front] = [content.ego.lower, content.ego.upper];
  const body = new THREE.Mesh(new THREE.BoxGeometry(...front.map((high, axis) => high - back[axis])), paint);
  body.position.set(...front.map((high, axis) => (high + back[axis]) / 2));
  const heading = new THREE.Mesh(new THREE.ConeGeometry(0.7, 1.8, 24), paint); // ahead of the vehicle, pointing where it goes
  heading.rotation.z = -Math.PI / 2;
  heading.position.set(front[0] + 1.2, 0, (front[2] + back[2]) / 2);
  scene.add(frame, body, heading);

  // ---- colours -------------------------------------------------------------------------------------------------------------------------
  const linear = ([r, g, b]) => new THREE.Color().setRGB(r / 255, g / 255, b / 255, THREE.SRGBColorSpace);
  const ground = new THREE.Color(BACKGROUND);
  const paletteOf = (entries) => entries.map(({ color }) => linear(color));
  const palettes = { classes: paletteOf(content.classes), errors: paletteOf(content.errors) };
  const pale = palettes.classes.map((color) => color.clone().lerp(ground, PALE));

  // The edges of a cell, a little darker, so that one tells how far away it is
  const pattern = Object.assign(document.createElement("canvas"), { width: 64, height: 64 }), pen = pattern.getContext("2d");
  pen.fillStyle = "#c4c4c4";
  pen.fillRect(0, 0, 64, 64);
  pen.fillStyle = "#ffffff";
  pen.fillRect(3, 3, 58, 58);
  const edges = new THREE.CanvasTexture(pattern);
  edges.colorSpace = THREE.SRGBColorSpace;
  edges.anisotropy = 4;
  const cube = new THREE.BoxGeometry(grid.cell_size, grid.cell_size, grid.cell_size), ball = new THREE.IcosahedronGeometry(STANDARD_DEVIATIONS, 1);
  const ofCells = new THREE.MeshLambertMaterial({ map: edges }), ofGaussians = new THREE.MeshLambertMaterial();

  // ---- decoding ------------------------------------------------------------------------------------------------------------------------
  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  }

  async function cellsOf(packed) {
    const bytes = await inflate(packed), num = bytes.length / 6, indices = new Uint32Array(num), codes = new Uint16Array(num);
    for (let i = 0, index = 0; i < num; i++) {
      index += bytes[i] + bytes[num + i] * 256 + bytes[2 * num + i] * 65536 + bytes[3 * num + i] * 16777216;
      indices[i] = index;
      codes[i] = bytes[4 * num + i] + bytes[5 * num + i] * 256;
    }
    return { indices, codes };
  }

  async function gaussiansOf(packed) {
    const bytes = await inflate(packed), num = bytes.length / GAUSSIAN_BYTES;
    return { num, bytes, column: (number, i) => bytes[number * num + i] };
  }

  const decoded = new Map();
  function decode(number) {
    if (!decoded.has(number)) {
      if (decoded.size > 8) decoded.delete(decoded.keys().next().value);
      const { cells, gaussians } = frames[number];
      decoded.set(number, Promise.all([cellsOf(cells), gaussians ? gaussiansOf(gaussians) : null]));
    }
    return decoded.get(number);
  }

  // ---- what is shown -------------------------------------------------------------------------------------------------------------------
  const state = { frame: 0, view: "prediction", hidden: { classes: new Set(), errors: new Set() } };
  let voxels = null, ellipsoids = null, request = 0;

  function errorOf(code) {
    const predicted = code & MASK, truth = (code >> TRUTH_SHIFT) & MASK;
    if (!(code & SEEN_BIT)) return NOT_JUDGED;
    if (predicted === truth) return RIGHT;
    return predicted === FREE ? MISSED : truth === FREE ? FALSE : CONFUSED;
  }

  /** Say what a cell shows in the current view, as kind and colour; nothing where it is hidden or does not show. */
  function lookOf(code) {
    if (!(code & SHOWS[state.view])) return null;
    if (state.view === "error") {
      const kind = errorOf(code);
      return state.hidden.errors.has(kind) ? null : palettes.errors[kind];
    }
    const isTruth = state.view === "truth", kind = isTruth ? (code >> TRUTH_SHIFT) & MASK : code & MASK;
    if (state.hidden.classes.has(kind)) return null;
    const isUnseen = isTruth && !(code & SEEN_BIT);
    return isUnseen ? (at("unseen").checked ? pale[kind] : null) : palettes.classes[kind];
  }

  function meshOf(geometry, material, num) {
    const mesh = new THREE.InstancedMesh(geometry, material, num);
    mesh.instanceColor = new THREE.InstancedBufferAttribute(new Float32Array(num * 3), 3);
    mesh.frustumCulled = false;
    return mesh;
  }

  function voxelsOf({ indices, codes }) {
    const mesh = meshOf(cube, ofCells, indices.length), places = mesh.instanceMatrix.array, [x0, y0, z0] = grid.lower, step = grid.cell_size;
    let num = 0;
    for (let i = 0; i < indices.length; i++) {
      const color = lookOf(codes[i]);
      if (!color) continue;
      const z = indices[i] % nz, y = ((indices[i] - z) / nz) % ny, x = Math.floor(indices[i] / (nz * ny));
      places[16 * num] = places[16 * num + 5] = places[16 * num + 10] = places[16 * num + 15] = 1;
      places[16 * num + 12] = x0 + (x + 0.5) * step;
      places[16 * num + 13] = y0 + (y + 0.5) * step;
      places[16 * num + 14] = z0 + (z + 0.5) * step;
      color.toArray(mesh.instanceColor.array, 3 * num++);
    }
    mesh.count = num;
    return mesh;
  }

  function ellipsoidsOf({ num: all, column }) {
    const mesh = meshOf(ball, ofGaussians, all), places = mesh.instanceMatrix.array, signed = (byte) => (byte << 24) >> 24;
    let num = 0;
    for (let i = 0; i < all; i++) {
      const kind = column(14, i);
      if (state.hidden.classes.has(kind)) continue;
      const length = Math.hypot(...[9, 10, 11, 12].map((at) => signed(column(at, i)))) || 1;
      const [w, x, y, z] = [9, 10, 11, 12].map((at) => signed(column(at, i)) / length);
      // The rotation of a unit quaternion, one column for each own axis
      const axes = [
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
      ];
      for (let axis = 0; axis < 3; axis++) {
        const scale = content.gaussians.smallest_scale * 2 ** (column(6 + axis, i) / content.gaussians.steps_per_octave);
        for (let row = 0; row < 3; row++) places[16 * num + 4 * axis + row] = axes[axis][row] * scale;
        places[16 * num + 12 + axis] = grid.lower[axis] + ((column(2 * axis, i) + 256 * column(2 * axis + 1, i)) / 65535) * size[axis];
      }
      places[16 * num + 15] = 1;
      palettes.classes[kind].toArray(mesh.instanceColor.array, 3 * num++);
    }
    mesh.count = num;
    return mesh;
  }

  function replace(old, mesh) {
    if (old) {
      scene.remove(old);
      old.dispose();
    }
    if (mesh) scene.add(mesh);
    return mesh;
  }

  async function show() {
    const mine = ++request, shown = frames[state.frame];
    const [cells, gaussians] = await decode(state.frame);
    if (mine !== request) return; // something else was asked for meanwhile
    voxels = replace(voxels, state.view === "none" || (state.view !== "prediction" && !shown.has_truth) ? null : voxelsOf(cells));
    ellipsoids = replace(ellipsoids, gaussians && at("gaussians").checked ? ellipsoidsOf(gaussians) : null);
    const without = state.view !== "none" && state.view !== "prediction" && !shown.has_truth;
    caption.textContent = `${shown.name} · ${state.view === "none" ? "no voxels" : state.view}${without ? ": this key frame has no truth" : ""}`;
    if (ellipsoids) caption.textContent += ` · the ${gaussians.num.toLocaleString("en")} most opaque of ${shown.gaussians_there.toLocaleString("en")} Gaussians`;
    at("frame").value = state.frame;
    at("gaussians-row").disabled = !gaussians;
    at("unseen-row").hidden = state.view !== "truth";
    writeLegend();
    draw();
    canvas.dataset.shown = [state.frame, state.view, voxels ? voxels.count : 0, ellipsoids ? ellipsoids.count : 0].join(" ");
  }

  // ---- controls ------------------------------------------------------------------------------------------------------------------------
  function writeLegend() {
    const group = state.view === "error" ? "errors" : "classes", counts = frames[state.frame].counts[state.view] || [];
    at("entries").replaceChildren(
      ...content[group].flatMap(({ name, color }, kind) => {
        if (!counts[kind] && !(state.view === "none" && at("gaussians").checked)) return [];
        const label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("span");
        const count = Object.assign(document.createElement("span"), { className: "count", textContent: (counts[kind] || 0).toLocaleString("en") });
        if (state.view === "none") count.textContent = "";
        Object.assign(box, { type: "checkbox", checked: !state.hidden[group].has(kind), name });
        box.addEventListener("change", () => {
          state.hidden[group][box.checked ? "delete" : "add"](kind);
          show();
        });
        swatch.className = "swatch";
        swatch.style.background = `rgb(${color})`;
        label.append(box, swatch, name, count);
        return [label];
      }),
    );
  }

  function hideAll(isHidden) {
    const group = state.view === "error" ? "errors" : "classes";
    state.hidden[group] = new Set(isHidden ? content[group].keys() : []);
    show();
  }

  function turnTo(number) {
    state.frame = (number + frames.length) % frames.length;
    show();
  }

  let timer = null;
  function play() {
    timer = timer ? clearInterval(timer) : setInterval(() => turnTo(state.frame + 1), PLAY_MS);
    at("play").textContent = timer ? "❚❚" : "▶";
  }

  at("frame").max = frames.length - 1;
  at("frames").hidden = frames.length === 1;
  at("frame").addEventListener("input", (event) => turnTo(Number(event.target.value)));
  at("play").addEventListener("click", play);
  at("all").addEventListener("click", () => hideAll(false));
  at("no").addEventListener("click", () => hideAll(true));
  at("unseen").addEventListener("change", show);
  at("gaussians").addEventListener("change", show);
  at("gaussians-row").hidden = !frames.some(({ gaussians }) => gaussians);
  for (const radio of document.querySelectorAll("[name=view]")) {
    radio.disabled = ["truth", "error"].includes(radio.value) && !frames.some(({ has_truth: hasTruth }) => hasTruth);
    radio.addEventListener("change", () => {
      state.view = radio.value;
      show();
    });
  }
  for (const button of document.querySelectorAll("[data-look]")) button.addEventListener("click", () => look(button.dataset.look));
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target instanceof HTMLInputElement && event.target.type !== "checkbox";
    if (!isTyping && event.key === "ArrowRight") turnTo(state.frame + 1);
    if (!isTyping && event.key === "ArrowLeft") turnTo(state.frame - 1);
  });
  at("controls").reset(); // browsers remember what was ticked before a page was opened again

  function resize() {
    const { clientWidth, clientHeight } = at("stage");
    renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    renderer.setSize(clientWidth, clientHeight, false);
    camera.aspect = clientWidth / clientHeight;
    camera.updateProjectionMatrix();
    draw();
  }
  new ResizeObserver(resize).observe(at("stage"));
  resize();
  look("behind");
  show().catch((error) => fail(`The page cannot be read: ${error.message}`));
})();
