import { render } from "preact";
import { App } from "./app";
import "./page.css";
import { store } from "./store";

render(<App />, document.getElementById("page")!);
void store.start();
