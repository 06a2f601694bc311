// Makes the live figures of a page live, without a kernel and without Jupyter's widget manager.
//
// A live figure is an anywidget: its ES module is written against anywidget's front-end interface.
// What a page without a kernel needs of that is here:
//
//   module   export default { initialize, render }, or a function that returns it, async or not;
//            both get { model, signal, experimental }, render also { el }; both may return a
//            function that is called when the figure goes
//   model    get, set (a name and a value, or an object), save_changes, send, on, off; the events
//            "change:name" (model, value) and "change" (model); off() ends a view's own only
//   traits   as the stored state has them; binary ones are DataViews
//   _css     put into the page once
//
// There is nobody to talk to: save_changes and send do nothing, no "msg:custom" comes, and
// experimental.invoke fails. Not here: models that refer to other models (host, widget_manager).
// A page writes for each figure
//
//   <div class="live-figure" data-live="FILE FILE …" data-live-model="NAME"
//        data-live-widget="CLASS"><img …></div>
//
// The files lie in the folder live/ beside this one; the first holds the state, the others the
// long texts and the buffers. They are scripts that call liveFigures.add, since a page opened as a
// file may not fetch. They are loaded when the figure comes near the screen. Until it is live, in
// print, and if anything goes wrong the picture stands. The attribute data-phase says how far a
// figure is: waiting, loading, live or failed; for all but the last live_figures.css keeps the place
// that the widget will need.
(() => {
  "use strict";

  const folder = new URL("live/", document.currentScript.src).href;
  const near = "800px 0px";
  const parts = new Map(); // by digest: { promise, resolve }
  const modules = new Map(); // by digest of the source: a promise of the module's exports
  const models = new Map(); // by name: { promise, views }
  const styles = new Set();

  window.liveFigures = {
    add(digest, value) {
      parts.get(digest)?.resolve(value);
    },
  };

  function part(digest) {
    if (!parts.has(digest)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => {
        entry.resolve = resolve;
        const script = document.createElement("script");
        script.src = `${folder}${digest}.js`;
        script.onerror = () => reject(new Error("its data could not be loaded"));
        // A file that has been cut short is loaded, but does not call.
        script.onload = () => reject(new Error("its data are damaged"));
        document.head.append(script);
      });
      parts.set(digest, entry);
    }
    return parts.get(digest).promise;
  }

  function importModule(digest, source) {
    if (!modules.has(digest)) {
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      modules.set(digest, import(url).finally(() => URL.revokeObjectURL(url)));
    }
    return modules.get(digest);
  }

  function addStyle(digest, css) {
    if (styles.has(digest)) return;
    styles.add(digest);
    const style = document.createElement("style");
    style.textContent = css;
    document.head.append(style);
  }

  function decode(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new DataView(bytes.buffer);
  }

  function equal(a, b) {
    if (Object.is(a, b)) return true;
    if (typeof a !== "object" || typeof b !== "object" || !a || !b) return false;
    if (Array.isArray(a) !== Array.isArray(b)) return false;
    if ([a, b].some((x) => ArrayBuffer.isView(x) || x instanceof ArrayBuffer)) return false;
    const keys = Object.keys(a);
    return (
      keys.length === Object.keys(b).length &&
      keys.every((key) => Object.hasOwn(b, key) && equal(a[key], b[key]))
    );
  }

  class Model {
    #state;
    #listeners = []; // { name, callback, owner }

    constructor(state) {
      this.#state = state;
    }

    // What a module is given: listeners belong to whoever asked, so that off() ends theirs only.
    of(owner) {
      const model = {
        get: (name) => this.#state[name],
        set: (name, value) => {
          this.#set(typeof name === "object" ? name : { [name]: value }, model);
        },
        save_changes: () => {},
        send: () => {},
        on: (names, callback) => {
          for (const name of names.split(/\s+/)) {
            this.#listeners.push({ name, callback, owner });
          }
        },
        off: (names, callback) => this.forget(owner, names?.split(/\s+/), callback),
      };
      return model;
    }

    forget(owner, names, callback) {
      this.#listeners = this.#listeners.filter(
        (each) =>
          each.owner !== owner ||
          (names && !names.includes(each.name)) ||
          (callback && callback !== each.callback),
      );
    }

    #set(values, model) {
      const changed = Object.keys(values).filter((name) => !equal(this.#state[name], values[name]));
      for (const name of changed) this.#state[name] = values[name];
      for (const name of changed) this.#emit(`change:${name}`, model, this.#state[name]);
      if (changed.length) this.#emit("change", model);
    }

    #emit(name, ...details) {
      for (const each of [...this.#listeners]) {
        if (each.name === name) each.callback(...details);
      }
    }
  }

  const experimental = {
    invoke: async () => {
      throw new Error("there is no Python behind this page");
    },
  };

  // A model, with what its module exports; the same for all figures that show it on a page.
  function open(name, digests) {
    if (!models.has(name)) models.set(name, { promise: start(digests), views: 0 });
    return models.get(name);
  }

  async function start(digests) {
    const values = await Promise.all(digests.map(part));
    const byDigest = Object.fromEntries(digests.map((digest, i) => [digest, values[i]]));
    const { state, texts, buffers } = structuredClone(values[0]);
    for (const [key, digest] of Object.entries(texts)) state[key] = byDigest[digest];
    for (const [path, digest] of buffers) {
      const last = path.pop();
      path.reduce((value, key) => value[key], state)[last] = decode(byDigest[digest]);
    }
    if (texts._css) addStyle(texts._css, state._css);
    const exported = (await importModule(texts._esm, state._esm)).default;
    const widget = typeof exported === "function" ? await exported() : exported;
    if (!widget) throw new Error("its module has no default export");
    const model = new Model(state);
    const end = new AbortController();
    const context = { model: model.of(end), signal: end.signal, experimental };
    const cleanup = await widget.initialize?.(context);
    return { model, widget, close: () => finish(end, model, cleanup) };
  }

  function finish(end, model, cleanup) {
    end.abort();
    model.forget(end);
    if (typeof cleanup === "function") return cleanup();
  }

  async function mount(figure) {
    const name = figure.dataset.liveModel;
    const el = document.createElement("div");
    el.className = "live-figure-view";
    figure.dataset.phase = "loading";
    const end = new AbortController();
    let opened;
    try {
      const entry = open(name, figure.dataset.live.split(" "));
      entry.views += 1;
      opened = await entry.promise;
      // Laid out beside the picture but not seen yet, so that a module can measure it.
      figure.append(el);
      const model = opened.model.of(end);
      const context = { model, el, signal: end.signal, experimental };
      const cleanup = await opened.widget.render?.(context);
      figure.dataset.phase = "live";
      figure.liveFigure = {
        model,
        // Ends the figure as a notebook's would: the picture stands again.
        async remove() {
          delete figure.liveFigure;
          delete figure.dataset.phase;
          el.remove();
          await finish(end, opened.model, cleanup);
          await leave(name, opened);
        },
      };
      figure.dispatchEvent(new CustomEvent("live-figure", { bubbles: true }));
    } catch (error) {
      console.error("live figure:", error);
      el.remove();
      if (opened) finish(end, opened.model);
      figure.dataset.phase = "failed";
      const note = document.createElement("p");
      note.className = "live-figure-note";
      note.setAttribute("role", "status");
      const reason = error?.message || String(error);
      note.textContent = `This figure is not live here: ${reason}. The picture shows how it begins.`;
      figure.append(note);
      leave(name, opened);
    }
  }

  async function leave(name, opened) {
    const entry = models.get(name);
    entry.views -= 1;
    if (entry.views > 0) return;
    models.delete(name);
    await opened?.close();
  }

  const figures = document.querySelectorAll(".live-figure[data-live]");
  figures.forEach((figure) => { figure.dataset.phase = "waiting"; });
  if (!("IntersectionObserver" in window)) {
    figures.forEach(mount);
    return;
  }
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        observer.unobserve(entry.target);
        mount(entry.target);
      }
    },
    { rootMargin: near },
  );
  figures.forEach((figure) => observer.observe(figure));
})();
