"""Why a gradient is wrong: what gradcheck saw (`findings`), and what could have caused it (`causes`)."""
