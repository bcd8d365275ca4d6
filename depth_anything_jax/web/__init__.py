"""Web interface of the program `app`, in Gradio.

`page` is the user interface, `handlers` computes its results, `security` filters requests,
`request_body` receives them, `login` knows the password, `upload_folder` stores files and removes
them after a time, `http_server` starts the server. Gradio is the extra [app] and is imported late.
"""
