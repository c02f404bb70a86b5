// The words of our messages in the page's language. Names of commands and settings are translated by
// the page itself, from locales/.

const WORDS = {
  en: {
    use: "Use Inkstone loaders",
    check: "Check this graph",
    exchanged: "{} loaders exchanged",
    runs: "Models and sockets are in order",
    fails: "This graph will not run here",
    failed: "Inkstone",
    unreachable: "The server gave no answer that can be read.",
  },
  zh: {
    exchanged: "已替换 {} 个加载器",
    runs: "模型和接口都没有问题",
    fails: "此工作流在这里无法运行",
    unreachable: "服务器没有给出可读的答复。",
  },
  "zh-TW": {
    exchanged: "已替換 {} 個載入器",
    runs: "模型和接口都沒有問題",
    fails: "此工作流程在這裡無法執行",
    unreachable: "伺服器沒有給出可讀的答覆。",
  },
};

let language = () => "en";

/** Says how to ask for the page's language, which may change. */
export function setLanguage(ask) {
  language = ask;
}

export function text(name, value = "") {
  const words = WORDS[language()]?.[name] ?? WORDS.en[name];
  return words.replace("{}", value);
}
