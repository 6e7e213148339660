"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const rows = data.rows;
  const storageKey = `${data.format}:${data.dataset}`;
  const SIGNS = { accept: "✓", edit: "✎", reject: "✕", "": "·" };
  const NAMES = { accept: "accepted", edit: "accepted as edited", reject: "rejected", "": "undecided" };
  const REASONS = ["unclear question", "not worth asking", "wrong answer", "quotes do not prove it", "answer elsewhere too"];
  const FILTERS = [["all", "All"], ["", "To do"], ["accept", "Accepted"], ["edit", "Edited"], ["reject", "Rejected"]];

  /* ---- state: what was decided, kept in this browser ---- */

  const initial = (row) => {
    const before = row.verdict;
    const decision = before ? (before.decision === "edit" ? "accept" : before.decision) : "";
    const edit = (text, shown) => (text && text !== shown ? text : "");
    return {
      decision,
      question: before ? edit(before.edited_question, row.question) : "",
      answer: before ? edit(before.edited_answer, row.answer) : "",
      comment: before ? before.comment : "",
      at: "",
    };
  };
  const states = new Map(rows.map((row) => [row.id, initial(row)]));
  const view = { row: 0, filter: "all", text: "", editing: "", distractors: false };
  let reviewer = "";
  let downloaded = "";
  let canStore = true;

  const restore = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(storageKey) || "{}");
      for (const [id, state] of Object.entries(kept.states || {})) {
        if (states.has(id)) states.set(id, { ...states.get(id), ...state });
      }
      reviewer = kept.reviewer || "";
      downloaded = kept.downloaded || "";
      const place = rows.findIndex((row) => row.id === kept.row);
      view.row = place >= 0 ? place : 0;
    } catch {
      canStore = false;
    }
  };
  const store = () => {
    const changed = [...states].filter(([, state]) => state.at);
    try {
      let kept = {};
      try { kept = JSON.parse(localStorage.getItem(storageKey) || "{}").states || {}; } catch { kept = {}; }
      /* Another page on the same dataset may hold other rows: theirs stay. */
      const all = { ...kept, ...Object.fromEntries(changed) };
      localStorage.setItem(storageKey, JSON.stringify({ states: all, reviewer, downloaded, row: rows[view.row].id }));
      canStore = true;
    } catch {
      canStore = false;
    }
    byId("notice").hidden = canStore;
    byId("notice").textContent = "This browser does not keep your verdicts: download them before you close the page.";
  };

  const outcome = (state) =>
    state.decision === "accept" && (state.question || state.answer) ? "edit" : state.decision;
  const touched = () => rows.filter((row) => {
    const state = states.get(row.id);
    return state.at && (outcome(state) || row.verdict);
  });
  const mark = () => touched().map((row) => row.id + states.get(row.id).at).join();

  const change = (row, changes) => {
    const state = states.get(row.id);
    Object.assign(state, changes, { at: new Date().toISOString() });
    store();
  };

  /* ---- building elements: from text only ---- */

  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "class") element.className = value;
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child || child === 0));
    return element;
  };
  const fill = (id, ...children) => byId(id).replaceChildren(...children.filter(Boolean));

  /* ---- header ---- */

  const wilson = (good, all) => {
    const z = 1.96, share = good / all, scale = 1 + z * z / all;
    const middle = (share + z * z / (2 * all)) / scale;
    const half = z * Math.sqrt(share * (1 - share) / all + z * z / (4 * all * all)) / scale;
    return [Math.max(0, middle - half), Math.min(1, middle + half)];
  };
  const percent = (share) => `${Math.round(100 * share)}%`;

  const showHeader = () => {
    const count = { accept: 0, edit: 0, reject: 0 };
    for (const state of states.values()) if (outcome(state)) count[outcome(state)] += 1;
    const decided = count.accept + count.edit + count.reject;
    fill("bar", ...Object.entries(count).map(([name, number]) => {
      const part = make("span", { class: name });
      part.style.width = `${100 * number / rows.length}%`;
      return part;
    }));
    byId("bar").setAttribute("aria-valuemax", rows.length);
    byId("bar").setAttribute("aria-valuenow", decided);
    const parts = [make("b", {}, `${decided} of ${rows.length}`), " decided"];
    if (decided) {
      const [low, high] = wilson(count.accept, decided);
      parts.push(" · ", make("span", { title: `With the 95% interval for all ${data.num_eligible.toLocaleString("en")} rows that this sample was drawn from` },
        `${count.accept} accepted as they are: ${percent(count.accept / decided)} (${percent(low)} to ${percent(high)})`),
      ` · ${count.edit} edited · ${count.reject} rejected`);
    }
    fill("tally", ...parts);
    const pending = touched().length;
    byId("download").disabled = !pending;
    byId("download").textContent = !pending ? "Download verdicts"
      : mark() === downloaded ? "Downloaded ✓" : `Download ${pending} verdict${pending > 1 ? "s" : ""}`;
  };

  /* ---- list ---- */

  const listed = () => {
    const wanted = view.text.toLowerCase();
    return rows.map((row, place) => [row, place]).filter(([row]) => {
      const state = states.get(row.id);
      const words = [row.question, state.question, row.answer, state.answer, state.comment].join("\n");
      return (view.filter === "all" || outcome(state) === view.filter) && words.toLowerCase().includes(wanted);
    });
  };
  const showList = () => {
    fill("filters", ...FILTERS.map(([value, title]) => {
      const number = rows.filter((row) => value === "all" || outcome(states.get(row.id)) === value).length;
      return make("button", {
        type: "button", "aria-pressed": String(view.filter === value),
        onclick: () => { view.filter = value; showList(); },
      }, `${title} ${number}`);
    }));
    const found = listed();
    fill("list", ...found.map(([row, place]) => {
      const state = states.get(row.id), result = outcome(state);
      return make("li", {}, make("button", {
        type: "button", "aria-current": place === view.row ? "true" : undefined, onclick: () => go(place),
      }, make("span", { class: `state ${result}`, role: "img", "aria-label": NAMES[result] }, SIGNS[result]),
      make("span", { class: "words" }, state.question || row.question)));
    }));
    byId("nothing").hidden = found.length > 0;
    const current = byId("list").querySelector("[aria-current]");
    if (current) current.scrollIntoView({ block: "nearest" });
  };

  /* ---- the row ---- */

  const editor = (row, field, most) => {
    const state = states.get(row.id);
    const area = make("textarea", {
      rows: field === "question" ? 2 : 4, maxlength: most, "aria-label": `Edited ${field}`, id: "editor",
      oninput: () => {
        const text = area.value.trim();
        const edited = text && text !== row[field] ? text : "";
        change(row, { [field]: edited, decision: edited || state.decision ? "accept" : "" });
        showHeader(); showList(); showVerdicts();
      },
      onblur: (event) => {
        /* A button of the card would be replaced before it is clicked; it shows the card itself. */
        if (view.editing !== field || (event.relatedTarget && event.relatedTarget.closest("#card button"))) return;
        view.editing = "";
        showCard();
      },
    });
    area.value = state[field] || row[field];
    return area;
  };
  const field = (row, name, most, shown) => {
    if (view.editing === name) return [editor(row, name, most)];
    const state = states.get(row.id);
    const button = make("button", {
      type: "button", class: "edit-button", title: `Edit the ${name} (${name[0] === "q" ? "Q" : "E"})`,
      onclick: () => edit(name),
    }, "✎ edit");
    const was = state[name] && make("p", { class: "was" }, "was: ", make("del", {}, row[name]), " ",
      make("button", { type: "button", class: "edit-button", onclick: () => { change(row, { [name]: "" }); show(); } }, "undo the edit"));
    return [shown(state[name] || row[name], button), was];
  };

  const light = (number, isOn) => {
    for (const element of document.querySelectorAll(`[data-quote~="${number}"]`)) element.classList.toggle("live", isOn);
  };
  const find = (number) => {
    const target = document.querySelector(`mark[data-quote~="${number}"]`);
    const folded = target && target.closest("details");
    if (folded) folded.open = true;
    if (target) target.scrollIntoView({ block: "center", behavior: "smooth" });
  };
  const step = (each) => {
    const parts = [each.text];
    if (each.quote) {
      const where = each.doc ? `document ${each.doc}` : "a document";
      parts.push(" ", make("button", {
        type: "button", class: "quote", "data-quote": each.number, title: `Verbatim in ${where}: show it there`,
        onclick: () => find(each.number),
        onmouseenter: () => light(each.number, true), onmouseleave: () => light(each.number, false),
        onfocus: () => light(each.number, true), onblur: () => light(each.number, false),
      }, each.quote, make("sup", {}, String(each.number))));
    }
    return [...parts, " "];
  };
  const pieces = (passage) => passage.pieces.map(([text, quotes, isAnswer], place) => {
    if (!quotes.length) return isAnswer ? make("span", { class: "is-answer" }, text) : text;
    const next = passage.pieces[place + 1];
    const ending = quotes.filter((number) => !next || !next[1].includes(number));
    return make("mark", { class: isAnswer ? "is-answer" : "", "data-quote": quotes.join(" ") }, text,
      ...ending.map((number) => make("sup", {}, String(number))));
  });
  const passageView = (passage) => {
    const name = passage.number ? `document ${passage.number}` : "left out of this row's context";
    const madeUp = ["adversarial", "contradicting"].includes(passage.origin);
    const title = [
      make("span", { class: "tag" }, passage.is_oracle ? `oracle, ${name}` : name),
      !passage.is_oracle && make("span", { class: `tag ${madeUp ? "warn" : ""}` }, passage.origin.replace("_", " ") + (madeUp ? ", made up" : "")),
      make("span", { class: "title" }, passage.title || "untitled"),
      passage.source && make("span", { class: "source" }, passage.source),
    ].filter(Boolean);
    const body = make("div", { class: "body" }, ...pieces(passage));
    const changed = passage.change && make("p", { class: "change" }, `changed: ${passage.change}`);
    if (passage.is_oracle) {
      return make("section", { class: "passage oracle" }, make("header", {}, ...title), body);
    }
    return make("details", { class: "passage", open: view.distractors }, make("summary", {}, ...title), changed || "", body);
  };
  const targetNote = (row) => ({
    refuse: "teaches to refuse: its context does not hold the answer",
    memorise: "answered from memory: its context does not hold the oracle",
  })[row.target];

  const showCard = () => {
    const row = rows[view.row];
    const left = rows.filter((each) => !outcome(states.get(each.id))).length;
    const oracles = row.passages.filter((passage) => passage.is_oracle);
    const others = row.passages.filter((passage) => !passage.is_oracle);
    const note = targetNote(row);
    const canEditAnswer = row.target !== "refuse";
    const question = field(row, "question", data.max_question, (text, button) => make("h2", {}, text, " ", button));
    const answer = field(row, "answer", data.max_text, (text, button) =>
      make("div", { class: "text" }, text, " ", canEditAnswer ? button : ""));
    fill("card",
      !left && make("div", { class: "done" }, make("span", {}, "All rows are decided. Thank you!"),
        make("button", { type: "button", class: "primary", onclick: download }, "Download verdicts")),
      make("div", { class: "facts" }, `Row ${view.row + 1} of ${rows.length}`,
        ...[row.kind, row.style !== "plain" && row.style, row.split, row.source === "user" && "your question"]
          .filter((text) => text && text !== "user").map((text) => make("span", { class: "tag" }, text.replaceAll("_", " "))),
        note ? make("span", { class: "tag warn" }, note) : ""),
      make("div", { class: "question field" }, ...question.filter(Boolean)),
      make("div", { class: "answer field" }, make("span", { class: "label" }, "Final answer"), ...answer.filter(Boolean)),
      row.steps.length && make("div", { class: "steps" }, make("span", { class: "label" }, "Reasoning"), ...row.steps.flatMap(step)),
      make("div", { class: "passages" },
        make("span", { class: "label" }, oracles.length > 1 ? "Passages that answer together" : oracles.length ? "Passage that answers" : "The corpus is not to answer this question"),
        ...oracles.map(passageView),
        oracles.length ? make("p", { class: "legend" }, make("mark", {}, "quoted"), " word for word · ", make("span", { class: "is-answer" }, "the answer's words")) : ""),
      others.length && make("div", { class: "passages" },
        make("span", { class: "label" }, `${others.length} distractor${others.length > 1 ? "s" : ""} (D): none may answer the question`),
        ...others.map(passageView)),
    );
    const area = byId("editor");
    if (area) { area.focus(); area.setSelectionRange(area.value.length, area.value.length); }
  };

  const showVerdicts = () => {
    const row = rows[view.row], state = states.get(row.id), result = outcome(state);
    const choice = (decision, title, key) => make("button", {
      type: "button", class: decision, "aria-pressed": String(state.decision === decision), onclick: () => decide(decision),
    }, title, make("kbd", {}, key));
    const comment = make("input", {
      id: "comment", maxlength: data.max_text, placeholder: "Comment (C)", "aria-label": "Comment", value: state.comment,
      oninput: () => { change(row, { comment: comment.value }); showHeader(); pressReasons(); },
    });
    const reasons = REASONS.map((reason, place) => make("button", {
      type: "button", title: `${place + 1}`, onclick: () => { comment.value = toggled(comment.value, reason); comment.dispatchEvent(new Event("input")); },
    }, reason));
    const pressReasons = () => reasons.forEach((button, place) =>
      button.setAttribute("aria-pressed", String(comment.value.split("; ").includes(REASONS[place]))));
    pressReasons();
    fill("verdicts", make("div", { class: "inner" },
      make("div", { class: "choices" },
        choice("accept", result === "edit" ? "Accept as edited" : "Accept", "A"), choice("reject", "Reject", "R"),
        make("button", { type: "button", class: "clear", onclick: clear, disabled: !result }, "Clear", make("kbd", {}, "U"))),
      make("div", { class: "comment" }, comment, make("div", { class: "reasons", role: "group", "aria-label": "Common reasons" }, ...reasons)),
      make("div", { class: "steppers" },
        make("button", { type: "button", onclick: () => go(view.row - 1), disabled: view.row === 0 }, "Back", make("kbd", {}, "K")),
        make("button", { type: "button", onclick: () => go(view.row + 1), disabled: view.row === rows.length - 1 }, "Next", make("kbd", {}, "J"))),
    ));
  };
  const toggled = (text, reason) => {
    const parts = text.split("; ").filter(Boolean);
    return (parts.includes(reason) ? parts.filter((part) => part !== reason) : [...parts, reason]).join("; ");
  };
  const show = () => { showHeader(); showList(); showCard(); showVerdicts(); };

  /* ---- what can be done ---- */

  let fading;
  const say = (text) => {
    byId("toast").textContent = text;
    byId("toast").classList.add("shown");
    clearTimeout(fading);
    fading = setTimeout(() => byId("toast").classList.remove("shown"), 1600);
  };
  const go = (place) => {
    if (place < 0 || place >= rows.length) return;
    Object.assign(view, { row: place, editing: "" });
    store();
    show();
    byId("card").scrollTop = 0;
    byId("card").focus({ preventScroll: true });
  };
  const nextOpen = () => {
    for (let offset = 1; offset <= rows.length; offset += 1) {
      const place = (view.row + offset) % rows.length;
      if (!outcome(states.get(rows[place].id))) return go(place);
    }
    show();
    return say("All rows are decided");
  };
  const decide = (decision) => {
    const row = rows[view.row], state = states.get(row.id);
    view.editing = "";
    if (state.decision !== decision) change(row, { decision });
    say(`Row ${view.row + 1} ${NAMES[outcome(state)]}`);
    return nextOpen();
  };
  const clear = () => {
    change(rows[view.row], { decision: "", question: "", answer: "", comment: "" });
    say("Verdict cleared");
    show();
  };
  const edit = (name) => {
    if (name === "answer" && rows[view.row].target === "refuse") return say("A refusal cannot be edited");
    view.editing = name;
    return showCard();
  };

  const download = () => {
    const verdicts = touched().map((row) => {
      const state = states.get(row.id), result = outcome(state);
      return {
        row_id: row.id, question: row.question, decision: result || "withdrawn",
        edited_question: result === "edit" ? state.question : "", edited_answer: result === "edit" ? state.answer : "",
        comment: state.comment.trim(), decided_at: state.at,
      };
    });
    const file = { format: data.format, dataset: data.dataset, reviewer, verdicts };
    const address = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
    make("a", { href: address, download: "verdicts.json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    downloaded = mark();
    store();
    showHeader();
    say(`${verdicts.length} verdicts in verdicts.json`);
  };
  const load = async (file) => {
    let content;
    try { content = JSON.parse(await file.text()); } catch { return say("That file is not JSON"); }
    if (content.format !== data.format || content.dataset !== data.dataset) return say("That file is of another review");
    let number = 0;
    for (const each of content.verdicts) {
      const state = states.get(each.row_id);
      if (!state || state.at >= each.decided_at) continue;
      const decision = { edit: "accept", withdrawn: "" }[each.decision] ?? each.decision;
      Object.assign(state, { decision, question: each.edited_question, answer: each.edited_answer, comment: each.comment, at: each.decided_at });
      number += 1;
    }
    store();
    show();
    return say(`${number} verdicts taken over`);
  };

  const keys = {
    a: () => decide("accept"), r: () => decide("reject"), e: () => edit("answer"), q: () => edit("question"),
    c: () => byId("comment").focus(), u: clear, n: nextOpen, s: () => touched().length && download(),
    j: () => go(view.row + 1), arrowright: () => go(view.row + 1), k: () => go(view.row - 1), arrowleft: () => go(view.row - 1),
    d: () => { view.distractors = !view.distractors; showCard(); },
    "/": () => byId("search").focus(), "?": () => byId("dialog").showModal(),
  };
  REASONS.forEach((reason, place) => {
    keys[String(place + 1)] = () => byId("verdicts").querySelectorAll(".reasons button")[place].click();
  });
  document.addEventListener("keydown", (event) => {
    if (byId("dialog").open || event.isComposing) return;
    const inText = event.target.matches("input, textarea");
    if (event.key === "Escape" && inText) {
      event.target.blur();
      byId("card").focus({ preventScroll: true });
    } else if (inText && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (states.get(rows[view.row].id).decision === "accept") { view.editing = ""; nextOpen(); } else decide("accept");
    } else if (inText && event.key === "Enter" && event.target.id === "comment") {
      event.target.blur();
      byId("card").focus({ preventScroll: true });
    } else if (!inText && !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key.toLowerCase()]) {
      event.preventDefault();
      keys[event.key.toLowerCase()]();
    }
  });
  byId("search").addEventListener("input", (event) => { view.text = event.target.value; showList(); });
  byId("reviewer").addEventListener("input", (event) => { reviewer = event.target.value.trim(); store(); });
  byId("download").addEventListener("click", download);
  byId("load").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => { if (event.target.files[0]) load(event.target.files[0]); event.target.value = ""; });
  byId("help").addEventListener("click", () => byId("dialog").showModal());
  window.addEventListener("beforeunload", (event) => { if (touched().length && mark() !== downloaded && !canStore) event.preventDefault(); });

  restore();
  byId("reviewer").value = reviewer;
  show();
  store();
})();
