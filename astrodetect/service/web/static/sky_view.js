// Aladin Lite at the position of an object, which it marks. It runs in a sandboxed frame, where storage is refused.
const { script, hips, ra, dec, name } = document.body.dataset, FIELD_DEG = 0.05;
Object.defineProperty(window, "localStorage", { value: { getItem: () => null, setItem: () => {} } });

const show = async () => {
  const { default: A } = await import(new URL(script, location.href).href);
  await A.init;
  const view = A.aladin("#sky", { survey: hips, target: `${ra} ${dec}`, fov: FIELD_DEG, log: false, showReticle: false, showSimbadPointerControl: false });
  const marks = A.catalog({ name: "astrodetect", shape: "circle", color: "#ffb000", sourceSize: 24 });
  view.addCatalog(marks);
  marks.addSources([A.source(Number(ra), Number(dec), { name })]);
};
show().catch((error) => { document.body.textContent = `Aladin Lite does not start: ${error.message}`; });
