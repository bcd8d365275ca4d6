"""Depth in a browser, for the program `app`: says where to start.

`page` is what people see, `work` what happens behind it, `gate` who may ask for what, `folder`
where files lie and for how long, `serve` starts it. Gradio is the extra [app], imported late.
"""
