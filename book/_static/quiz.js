/* The quiz of a chapter answers in the page. Its Markdown is a question, a list of choices and a folded
   answer, which says of every choice why; without this script it stays that. */
(() => {
  "use strict";

  // "**(b)** It is ... (a) It is not ... (c) Nor this." -> b: nodes, a: nodes, c: nodes; right: b
  function readAnswer(answer) {
    const reasons = new Map();
    let right = "", into = null;
    const begin = letter => {
      reasons.set(letter, into = document.createDocumentFragment());
      into.append(`(${letter}) `);  // "(a) is a leak": it may go on as a sentence
      right = right || letter;
    };
    for (const paragraph of answer.querySelectorAll(":scope > p:not(.admonition-title)")) {
      if (into) into.append(" ");
      for (const node of [...paragraph.childNodes]) {
        const bold = node.nodeName === "STRONG" && /^\(([a-z])\)$/.exec(node.textContent.trim());
        if (bold) begin(bold[1]);
        else if (node.nodeType !== Node.TEXT_NODE) into?.append(node.cloneNode(true));
        else
          node.data.split(/\(([a-z])\)/).forEach((part, i) => {
            if (i % 2) begin(part);
            else into?.append(part.trimStart() === part ? part : ` ${part.trimStart()}`);
          });
      }
    }
    return { right, reasons };
  }

  function makeQuestion(answer, count) {
    const list = answer.previousElementSibling, asked = list?.previousElementSibling;
    if (list?.tagName !== "UL" || !/^Question/.test(asked?.textContent ?? "")) return null;
    const { right, reasons } = readAnswer(answer), items = [...list.children];
    const letters = items.map(item => /^\s*\(([a-z])\)/.exec(item.textContent)?.[1]);
    if (!letters.includes(right) || !letters.every(letter => reasons.has(letter))) return null;

    const question = { right: null };  // whether the first choice was the right one
    asked.id ||= `quiz-${asked.textContent.trim().split(" ")[1].replace(/\W+/g, "-")}`;
    list.classList.add("quiz");
    list.setAttribute("role", "group");
    list.setAttribute("aria-labelledby", asked.id);
    items.forEach((item, i) => {
      const letter = letters[i], button = document.createElement("button"), said = document.createElement("div");
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      button.append(...(item.querySelector(":scope > p") ?? item).childNodes);
      said.setAttribute("aria-live", "polite");  // empty until it is chosen, so that it is read out
      item.setAttribute("role", "none");
      item.replaceChildren(button, said);
      button.addEventListener("click", () => {
        if (said.hasChildNodes()) return;
        const verdict = document.createElement("strong");
        verdict.textContent = letter === right ? "\u2713 Right. " : "\u2717 Not this one. ";
        item.classList.add(letter === right ? "quiz-right" : "quiz-wrong");
        button.setAttribute("aria-expanded", "true");
        said.append(verdict, reasons.get(letter));
        window.MathJax?.typesetPromise?.([said]);
        question.right ??= letter === right;
        count();
      });
    });
    answer.classList.add("quiz-folded");  // on paper it is shown, and what was clicked is not
    return question;
  }

  function makeQuizzes() {
    const sections = new Map();
    for (const answer of document.querySelectorAll("article .admonition.dropdown")) {
      if (answer.querySelector(":scope > .admonition-title")?.textContent.trim() !== "Answer") continue;
      const section = answer.closest("section");
      if (!sections.has(section)) sections.set(section, []);
      sections.get(section).push(answer);
    }
    for (const [section, answers] of sections) {
      const told = document.createElement("p");
      told.className = "quiz-count";
      told.setAttribute("role", "status");
      let questions = [];
      const count = () => {
        const done = questions.filter(q => q.right !== null), right = done.filter(q => q.right);
        const open = questions.length - done.length;
        told.textContent = `Quiz: ${right.length} of ${done.length} right at the first choice` +
          (open ? `, ${open} to go.` : ". That was the last one.");
      };
      questions = answers.map(answer => makeQuestion(answer, count)).filter(Boolean);
      if (!questions.length) continue;
      told.textContent = `Choose an answer: each tells its reason. ${questions.length} questions.`;
      answers.at(-1).after(told);
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", makeQuizzes);
  else makeQuizzes();
})();
