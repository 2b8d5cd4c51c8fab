import { render } from "preact";
import { App } from "./app";
import { loadWhenIdle } from "./code";
import "./page.css";
import { store } from "./store";

render(<App />, document.getElementById("page")!);
void store.start();
loadWhenIdle();
