"""The sections of the web pages: their routes, and the navigation of every page."""

from astrodetect.service.web import (
    audit,
    domain_notice,
    history,
    image_view,
    label_names,
    live,
    models,
    prediction,
    projection_map,
    rendering,
    review,
    review_grid,
    samp,
    sign_in,
    sky_map,
    sky_view,
    teaching,
    training,
    upload,
)

ROUTERS = tuple(
    module.router
    for module in (
        sky_view,  # before the static files
        rendering,
        domain_notice,
        upload,
        history,
        image_view,
        prediction,
        review,
        review_grid,
        label_names,
        samp,
        teaching,
        projection_map,
        sky_map,
        models,
        training,
        live,
        sign_in,
        audit,
    )
)
NAVIGATION = (
    ("/", "Try"),
    ("/history", "History"),
    ("/review", "Review"),
    ("/map", "Map"),
    (training.MODELS_PATH, "Models"),
    ("/live", "Live"),
)
rendering.TEMPLATE.globals["navigation"] = NAVIGATION
