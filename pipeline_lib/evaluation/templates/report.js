(function () {
  "use strict";
  var toolbar = document.getElementById("filters");
  var count = document.getElementById("num-shown");
  var questions = Array.prototype.slice.call(document.querySelectorAll("details.question"));
  if (!toolbar || !questions.length) return;
  var tests = {
    all: function () { return true; },
    differ: function (q) { return q.dataset.differ === "yes"; },
    invalid: function (q) { return q.dataset.invalid === "yes"; }
  };
  var buttons = Array.prototype.slice.call(toolbar.querySelectorAll("button[data-filter]"));

  function apply(name) {
    var shown = 0;
    questions.forEach(function (q) {
      q.hidden = !tests[name](q);
      if (!q.hidden) shown += 1;
    });
    buttons.forEach(function (b) {
      b.setAttribute("aria-pressed", String(b.dataset.filter === name));
    });
    count.textContent = shown + " of " + questions.length + " shown";
  }

  buttons.forEach(function (b) {
    b.addEventListener("click", function () { apply(b.dataset.filter); });
  });
  toolbar.querySelector("button[data-toggle]").addEventListener("click", function () {
    var visible = questions.filter(function (q) { return !q.hidden; });
    var open = visible.some(function (q) { return !q.open; });
    visible.forEach(function (q) { q.open = open; });
  });
  toolbar.hidden = false;
  apply("all");
})();
