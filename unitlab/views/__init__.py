"""What people look at: plots, the gallery of top images. HoloViews and Bokeh; no torch."""
