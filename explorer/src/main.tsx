import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { startLocation } from "./location.ts";
import { resumeSession } from "./session.ts";
import { Shell } from "./Shell.tsx";

void resumeSession().finally(startLocation);
render(<Shell />, document.getElementById("app") as HTMLElement);
